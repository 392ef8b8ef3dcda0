"""What there is to look at: pictures of curves and sounds, the report, the video. Imports no torch."""
