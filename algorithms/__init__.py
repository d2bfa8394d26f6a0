"""The paper's algorithms and their baselines, with data, environments, training and evaluation.

Import what you need from its module: everything beyond numpy and torch is an optional extra.
"""
