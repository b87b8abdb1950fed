"""Ways to attend over the paged store. `choice.py` says which one a layer gets."""
