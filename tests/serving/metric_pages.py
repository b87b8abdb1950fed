"""Pages of metrics as tests read them."""

import re


def of_one(page: str) -> str:
    """A page of one replica without the label that names it. There must be just one."""
    names = set(re.findall(r'[{,]replica="([^"]*)"', page))
    assert len(names) == 1, names
    page = re.sub(r'\{replica="[^"]*"\}', "", page)
    return re.sub(r',replica="[^"]*"|(?<=\{)replica="[^"]*",', "", page)
