"""How an expert is held as a sum of parts: formats, packing, the dense reference. torch alone."""
