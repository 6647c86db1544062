// Package netio is what the relay needs from sockets beyond package net, each
// thing the portable way with a better twin where the system has one. It
// knows nothing of relays.
package netio
