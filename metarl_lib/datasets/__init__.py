"""What base networks are asked to learn, in disjoint, seeded splits."""

from metarl_lib.datasets.digits import Digits, digits, load_images
from metarl_lib.datasets.split import Split
from metarl_lib.datasets.teacher_student import TeacherStudent, teacher_student

__all__ = ["Digits", "Split", "TeacherStudent", "digits", "load_images", "teacher_student"]
