"""What REM published over 26 games x 5 seeds."""

from tokendream.evaluation.scores import Aggregate

REM_PUBLISHED = Aggregate(mean=1.222, median=0.280, iqm=0.673, optimality_gap=0.482, superhuman=12.0)
"""Mean, median and the number of superhuman games follow from the 26 means in ATARI_100K; IQM and optimality gap look
at single runs, and follow from those in `evaluation.published`."""
