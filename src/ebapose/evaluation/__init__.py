"""How good poses are: AP, OKS, PCK, calibration, kinds of errors, and the report that brings them together.

`evaluate_predictions` (module `report`) judges the results file of any tool; the other modules are its parts.
"""
