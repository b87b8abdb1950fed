"""Methods of the field, to be measured beside releases. None of them is used to make a release."""
