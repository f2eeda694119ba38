"""``allgrad doctor``: gather facts, check them, measure a collective, say what to mend.

Flow: `gather` writes down what one process sees (`facts`), the functions of `checks` turn facts
into findings, `self_test` runs collectives as real ranks, `report` prints, `command` does it all.
"""
