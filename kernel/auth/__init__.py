"""Who a peer is, and what it may open: keys, the challenge that proves one, and the policy. Sans-I/O.

Reading keys from files and descriptors is `kernel.secrets`; TLS and UNIX credentials come from their transports.
"""
