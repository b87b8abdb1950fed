"""Published methods, to be compared with releases. None of them is used to make a release."""
