"""The tensors of all backbones on the device, and which of them has arrived. Computes nothing."""
