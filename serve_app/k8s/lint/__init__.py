"""What is wrong with manifests: one kind of mistake a file. Changes none, and asks no cluster."""
