"""Positive mining (Iglovikov 2018, section 3.2): a hand segmenter from few masks, or from none.

Rounds of: train, predict every image, keep the largest component, review by rule and by eye, grow
the training set. `rounds` is the loop, `images` what is masked and where the first masks come from,
`verdicts` the review by rule and its bookkeeping, `page` the review by eye in a local web page.
"""
