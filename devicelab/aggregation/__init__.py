"""Aggregation: what many clients learned becomes one model. Pure functions and classes over NumPy arrays.

From the outside in::

    factory         rules and server optimizers from the plain values of an experiment
    rule            what every rule keeps to: updates in, their mean out
      fedavg        the weighted mean, in the memory of two models however many clients there are
      coordinates   median and trimmed mean of every single number
      krum          the update or updates that are closest to the others
    server          what is done with the mean: FedAvg, FedAvgM, FedAdam, FedYogi, FedAdagrad
    privacy         DP-FedAvg: the sum of clipped deltas with Gaussian noise over the expected number of clients
    accounting      ε of a number of such rounds
    noise           normal numbers from unpredictable bytes
    norms           length of an update, clipping, and a bound
    update          what goes in: one client's delta, or a device's weighted sum of several
    chunks          tensors in pieces that stay in the processor's cache

Delta = trained − global, always. Nothing here reads a file, a clock or a random number (the bytes that become
noise are handed in): the same values in the same order give the same bytes.
"""
