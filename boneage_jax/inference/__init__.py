"""Images in, ages out: prediction with intervals, and calibration to a site's readings."""
