"""ProFL: progressive training of one block at a time, for devices that cannot hold the whole model.

"Breaking the Memory Wall for Heterogeneous Federated Learning via Progressive Training", Wu, Li, Xu; KDD
2025; arXiv 2404.13349. Docstrings mark where a choice comes from: [paper] the paper's text, [code] the
authors' published supplement, [inferred] our reading of either, [default] our own choice where both are
silent.
"""
