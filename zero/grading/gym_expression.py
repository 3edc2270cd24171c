"""An expression that somebody else wrote, as a sympy expression: parsed by Python's own grammar, and nothing of it executed.

In place of `sympy.parse_expr`, which evaluates the text as a program. It reads what sympy writes: numbers, names, + - * / **,
parentheses and elementary functions. ValueError for anything else, and for numbers too large to compute with.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import sympy

LONGEST = 2000  # characters; the answers of the package have a few hundred
DIGITS = 60  # of a number
LARGEST_POWER = 10_000  # bits of a power of two numbers
_FUNCTIONS = """sqrt exp log ln sin cos tan cot sec csc asin acos atan acot sinh cosh tanh asinh acosh atanh Abs erf erfi
    Si Ci Shi Chi Ei li gamma fresnels fresnelc Piecewise""".split()
_CONSTANTS = {"pi": sympy.pi, "E": sympy.E, "I": sympy.I, "oo": sympy.oo, "True": sympy.true, "False": sympy.false}


def parse(text: str, local_dict: Mapping[str, Any] | None = None) -> Any:
    """The expression. Names that `local_dict` does not hold are functions, constants, or symbols."""
    if len(text) > LONGEST:
        raise ValueError(f"longer than {LONGEST} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError("no expression") from error
    return _value(tree.body, local_dict or {})


def _value(node: ast.AST, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() as number):
            return _number(number)
        case ast.Name(id=name):
            return names[name] if name in names else _CONSTANTS.get(name, sympy.Symbol(name))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, names)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, names)
        case ast.BinOp(left=left, op=operator, right=right):
            return _combined(_value(left, names), operator, _value(right, names))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return getattr(sympy, name)(*(_value(argument, names) for argument in arguments))
    raise ValueError(f"no part of an expression: {type(node).__name__}")


def _number(value: bool | int | float) -> Any:
    if isinstance(value, bool):
        return sympy.true if value else sympy.false
    if isinstance(value, int):
        if abs(value) >= 10**DIGITS:
            raise ValueError(f"a number of more than {DIGITS} digits")
        return sympy.Integer(value)
    return sympy.Float(repr(value))


def _combined(left: Any, operator: ast.operator, right: Any) -> Any:
    match operator:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.Pow():
            if right.is_number and left.is_number and _bits(left) * abs(float(sympy.re(right))) > LARGEST_POWER:
                raise ValueError("a power beyond all bounds")
            return left**right
    raise ValueError(f"no operation: {type(operator).__name__}")


def _bits(number: Any) -> int:
    """Of the largest integer in it."""
    return max(
        (int(atom.p).bit_length() + int(atom.q).bit_length() for atom in number.atoms(sympy.Rational)), default=1
    )
