"""Statistics of the calibration images: ranges, histograms, Fisher weights, sensitivities."""
