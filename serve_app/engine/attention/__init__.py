"""Attention over the paged store of keys and values, in several forms. Schedules nothing."""
