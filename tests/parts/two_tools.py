"""A second tool beside the search: how long is a word?"""


def count_letters(word: str) -> str:
    """Counts the letters of a word.

    Args:
        word: The word.
    """
    return f"{len(word)} letters"
