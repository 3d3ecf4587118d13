"""Rows of question sets as their authors publish them, shortened to a few passages of a few sentences."""

HOTPOTQA = {
    "_id": "5a7a06935542990198eaf050",
    "answer": "Arthur's Magazine",
    "question": "Which magazine was started first Arthur's Magazine or First for Women?",
    "supporting_facts": [["First for Women", 0], ["Arthur's Magazine", 0], ["Arthur's Magazine", 1]],
    "context": [
        ["Radio City (Indian radio station)", ["Radio City is India's first private FM radio station."]],
        ["Empty", []],
        [
            "Arthur's Magazine",
            [
                "Arthur's Magazine (1844–1846) was an American literary periodical published in Philadelphia.",
                " Edited by T.S. Arthur, it featured work by Edgar A. Poe.",
            ],
        ],
        ["First for Women", ["First for Women is a woman's magazine started in 1989."]],
    ],
    "type": "comparison",
    "level": "medium",
}
HOTPOTQA_PASSAGES = [
    '"Radio City (Indian radio station)"\nRadio City is India\'s first private FM radio station.',
    "\"Arthur's Magazine\"\nArthur's Magazine (1844–1846) was an American literary periodical published in "
    "Philadelphia. "
    "Edited by T.S. Arthur, it featured work by Edgar A. Poe.",
    '"First for Women"\nFirst for Women is a woman\'s magazine started in 1989.',
]
TWO_WIKI = {
    "_id": "13f5ad2c088c11ebbd6fac1f6bf848b6",
    "type": "compositional",
    "question": "Where was the director of film Move (1970 Film) born?",
    "context": [
        ["Stuart Rosenberg", ["Stuart Rosenberg was an American film director.", "He was born in Brooklyn."]],
        ["Move (1970 film)", ["Move is a 1970 American comedy film.", "It was directed by Stuart Rosenberg."]],
    ],
    "supporting_facts": [["Stuart Rosenberg", 1], ["Move (1970 film)", 1]],
    "evidences": [
        ["Move (1970 film)", "director", "Stuart Rosenberg"],
        ["Stuart Rosenberg", "place of birth", "Brooklyn"],
    ],
    "answer": "Brooklyn",
}
TWO_WIKI_PASSAGES = [
    '"Stuart Rosenberg"\nStuart Rosenberg was an American film director. He was born in Brooklyn.',
    '"Move (1970 film)"\nMove is a 1970 American comedy film. It was directed by Stuart Rosenberg.',
]
MUSIQUE = {
    "id": "2hop__482757_12019",
    "paragraphs": [
        {"idx": 0, "title": "Green", "paragraph_text": "Green is a colour.", "is_supporting": False},
        {"idx": 1, "title": "Steve Hillage", "paragraph_text": "Hillage played in Gong.", "is_supporting": True},
        {"idx": 2, "title": "Green", "paragraph_text": "Green is an album by Steve Hillage.", "is_supporting": True},
    ],
    "question": "What band was the performer of Green a member of?",
    "question_decomposition": [
        {"id": 482757, "question": "Green >> performer", "answer": "Steve Hillage", "paragraph_support_idx": 2},
        {"id": 12019, "question": "Which band was #1 in?", "answer": "Gong", "paragraph_support_idx": 1},
    ],
    "answer": "Gong",
    "answer_aliases": ["Gong band"],
    "answerable": True,
}
MUSIQUE_PASSAGES = [
    '"Green"\nGreen is a colour.',
    '"Steve Hillage"\nHillage played in Gong.',
    '"Green"\nGreen is an album by Steve Hillage.',
]


def in_columns(row, second="sentences"):
    """A row of HotpotQA or 2WikiMultihopQA as the hub has it: lists of titles and of what stands beside them."""
    titles, texts = zip(*row["context"], strict=True)
    pages, numbers = zip(*row["supporting_facts"], strict=True)
    context = {"title": list(titles), second: [list(text) for text in texts]}
    return {**row, "context": context, "supporting_facts": {"title": list(pages), "sent_id": list(numbers)}}
