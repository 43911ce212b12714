"""Models of the paper that RecBole does not have."""

from recbole_llminit.models.sgcl import SGCL

__all__ = ["SGCL"]
