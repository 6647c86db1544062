//go:build !unix

package module_test

import (
	"net"
	"testing"
)

func sendUrgent(t *testing.T, _ *net.TCPConn) { t.Skip("needs a Unix") }
