"""What the cores compiled by Numba share: how they are compiled, and how rows are shared out.

Their loops are written out down to single numbers: a slice of an array costs more in them than
what is done with it. `no_type_check` keeps run-time checkers of types out of them, which would
hand Numba their own function.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba import njit
from torch import Tensor

# Sums may be reordered, which vector instructions need; NaN and infinity keep their meaning.
compile_loops = njit(
    cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"}
)


def array(x: Tensor) -> np.ndarray:
    """A tensor's numbers, in the same shape, and in its own memory if they lie in order there."""
    return x.detach().contiguous().numpy()


def share_out(work: Callable[[int, int, int], None], rows: int) -> None:
    """Call `work(first, end, number)` on parts of the rows, one for each of torch's threads."""
    threads = min(torch.get_num_threads(), rows)
    bounds = [rows * i // threads for i in range(threads + 1)]
    parts = list(zip(bounds[:-1], bounds[1:], range(threads), strict=True))
    if threads == 1:
        work(*parts[0])
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, *part) for part in parts]:
            done.result()
