"""The datagram protocol beneath its connections: who may come in, who is remembered, how much is held.

`packets` is the vocabulary, `gate` guards a listener before there is any state, `peers` remembers sources,
`reassembly` and `flow` are the receiving and the sending half's bookkeeping. No I/O and no clock here; docs/protocol-
datagrams.md is the specification. The connection itself is `kernel.session.datagram`.
"""
