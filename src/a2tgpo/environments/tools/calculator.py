"""The calculator tool: exact arithmetic that cannot be hurt."""

from a2tgpo.environments.safe_arithmetic import evaluate, write_number


def calculate(expression: str) -> str:
    """Computes the value of an arithmetic expression.

    Args:
        expression: Numbers, + - * / // % ** and parentheses.

    Raises:
        ExpressionError: The expression has no value; the message says why, in words for the policy.
    """
    return write_number(evaluate(expression))
