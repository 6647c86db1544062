// Package dial connects to a backend that has one or more addresses, as RFC 8305
// (Happy Eyeballs) does, and decides whether a failed dial is the backend's
// fault or a local failure. It knows nothing of pools and strikes.
package dial
