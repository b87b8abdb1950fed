from consolidation.walk.course import Course


def test_shares_add_up_and_never_pass_the_whole() -> None:
    told: list[float] = []
    course = Course(told.append, 100)
    for work in (25, 50, 25, 10):
        course.passed(work)
    assert told == [0.25, 0.75, 1.0, 1.0]
