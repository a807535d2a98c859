"""From pictures to poses: detector, runtimes and the predictor that joins them."""
