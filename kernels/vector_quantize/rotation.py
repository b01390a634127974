"""The rotation trick: a gradient that knows where in its cell a vector lies.

Fifty et al. 2024 (arXiv 2410.06424, section 4.2): the code q of a vector x is |q| / |x| R x, with R the rotation in the
plane of x and q that takes the one's direction to the other's; both are held constant in the backward pass, so the
gradient of x is |q| / |x| R^T g. With unit vectors e of x, c of q, r of e + c: R^T g = g - 2 r (r . g) + 2 e (c . g).
"""

import torch
from torch import Tensor


def rotated_back(grad_ND: Tensor, x_ND: Tensor, chosen_ND: Tensor) -> Tensor:
    """The gradient of the chosen codes, taken back to x, (..., D). As it comes where no rotation is defined."""
    x_length_N1 = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True)
    length_N1 = torch.linalg.vector_norm(chosen_ND, dim=-1, keepdim=True)
    e_ND, c_ND = x_ND / x_length_N1, chosen_ND / length_N1
    middle_ND = e_ND + c_ND
    middle_N1 = torch.linalg.vector_norm(middle_ND, dim=-1, keepdim=True)
    r_ND = middle_ND / middle_N1
    turned_ND = grad_ND - 2 * r_ND * (r_ND * grad_ND).sum(-1, keepdim=True)
    turned_ND = turned_ND + 2 * e_ND * (c_ND * grad_ND).sum(-1, keepdim=True)
    # two opposite directions have no plane; what is left of their sum is rounding
    defined_N1 = (x_length_N1 > 0) & (length_N1 > 0) & (middle_N1 > 1e-3)
    return torch.where(defined_N1, length_N1 / x_length_N1 * turned_ND, grad_ND)
