// Package relaytest holds what the tests of several packages share: waiting
// for a condition, connections over loopback, servers, the check for leaked
// goroutines, running a test in a process of its own, and limiting descriptors.
// Only tests import it.
package relaytest
