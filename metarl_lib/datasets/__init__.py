"""What base networks are asked to learn, in disjoint, seeded splits."""

from metarl_lib.datasets.digits import Digits, digits, load_images
from metarl_lib.datasets.families import (
    DigitsFamily,
    Family,
    Tasks,
    TeacherFamily,
)
from metarl_lib.datasets.n_way import NWayFamily
from metarl_lib.datasets.sinusoids import sinusoid_samples, sinusoid_tasks
from metarl_lib.datasets.split import Split
from metarl_lib.datasets.teacher_student import TeacherStudent, teacher_student
from metarl_lib.datasets.waves import SinusoidFamily

__all__ = [
    "Digits",
    "DigitsFamily",
    "Family",
    "NWayFamily",
    "SinusoidFamily",
    "Split",
    "Tasks",
    "TeacherFamily",
    "TeacherStudent",
    "digits",
    "load_images",
    "sinusoid_samples",
    "sinusoid_tasks",
    "teacher_student",
]
