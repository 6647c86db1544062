package lab

import (
	"io"
	"net"
	"sync"
)

// Backend is a TCP server that sends back what it gets. It can be killed and
// started again.
type Backend struct {
	Addr string

	mu    sync.Mutex // guards the fields below
	ln    net.Listener
	conns map[net.Conn]struct{}
}

// NewBackend starts a backend.
func NewBackend() (*Backend, error) {
	b := &Backend{Addr: FreeAddr()}
	return b, b.Start()
}

// Start listens.
func (b *Backend) Start() error {
	ln, err := net.Listen("tcp", b.Addr)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ln, b.conns = ln, make(map[net.Conn]struct{})
	go b.serve(ln) // ends with Kill
	return nil
}

func (b *Backend) serve(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		if b.ln == ln {
			b.conns[conn] = struct{}{}
		} else {
			_ = conn.Close()
		}
		b.mu.Unlock()
		go func() { // ends with its connection
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
			b.mu.Lock()
			defer b.mu.Unlock()
			delete(b.conns, conn)
		}()
	}
}

// Kill ends the backend and its connections.
func (b *Backend) Kill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ln == nil {
		return
	}
	_ = b.ln.Close()
	b.ln = nil
	for conn := range b.conns {
		_ = conn.Close()
	}
}
