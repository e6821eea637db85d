"""What finished runs are worth: tables of papers, ensembles, robustness, looks inside networks."""
