// Package lab builds networks for tests that need a path with faults: a network
// namespace for the test's process, other hosts with links and narrow paths
// ([Host]), a TUN device whose far side is the test itself ([TUN]), a neighbour
// that does not answer ([DeadNeighbour]), and packet filters that delay
// ([HoldPackets]). Only tests import it.
//
// It needs Linux and root, and each part skips the test with the reason where
// something is missing. Packets are delayed with NFQUEUE or on the far side of
// a TUN device, not with netem, which many kernels lack.
package lab
