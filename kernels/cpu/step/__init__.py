"""The operations of a training step in fixed point, without autograd (C in csrc/lookup and csrc/step).

Forward products of {-1, 0, 1} by ±1 (`ternary`), products of real numbers in 16-bit fixed point by ±1 and updates
(`fixed`, `first_layer`), batch norm, activation, dropout and pooling (`norm`), large pages (`memory`). They need
the compiled library (`ternary.available`). Every instruction set and number of threads gives the same bits.
"""
