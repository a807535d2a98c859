"""How fast is it here? Networks, runtimes and the whole way of a picture, side by side in one run."""
