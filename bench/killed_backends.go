//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// killRequest is the first byte of the request that makes a backend kill itself.
const killRequest = 'K'

// serveMortal runs one backend. It answers each connection once, after a delay. The
// first byte of an answer is the number of the backend.
func serveMortal(addr, number, delay string) error {
	after, err := time.ParseDuration(delay)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			buf := make([]byte, 4096)
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			if buf[0] == killRequest {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
			time.Sleep(after)
			buf[0] = number[0]
			_, _ = conn.Write(buf[:n])
		}()
	}
}

// startMortals starts the backends of a row. Each one that ends is started again
// after a pause.
func (b *bench) startMortals(r row) (backends []string, stop func(), err error) {
	count, delay := 1, "0s"
	if r.backends == killedPair {
		count, delay = 2, "10ms" // so that most clients wait for an answer when it is killed
	}
	var stops []func()
	stop = func() {
		for _, s := range stops {
			s()
		}
	}
	for i := range count {
		port, err := freePort("tcp", b.turn+2000+1000*i)
		if err != nil {
			return nil, stop, err
		}
		addr := net.JoinHostPort(loopback, strconv.Itoa(port))
		one, err := b.keepAlive(r.job.Gap, os.Args[0], "mortal", addr, strconv.Itoa(i), delay)
		stops = append(stops, one)
		if err != nil {
			return nil, stop, err
		}
		backends = append(backends, addr)
	}
	for _, addr := range backends {
		if err := waitServing(addr); err != nil {
			return nil, stop, err
		}
	}
	return backends, stop, nil
}

// keepAlive starts a program, and starts it again after a pause whenever it ends.
func (b *bench) keepAlive(pause time.Duration, argv ...string) (stop func(), err error) {
	started := make(chan error, 1)
	ending := make(chan struct{})
	var mu sync.Mutex
	var current *child
	var done sync.WaitGroup
	done.Go(func() {
		runtime.LockOSThread() // the kernel kills a child when the thread that started it ends
		for first := true; ; first = false {
			mu.Lock()
			c, err := startChild(b.dir, argv...)
			current = c
			mu.Unlock()
			if first {
				started <- err
			}
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, c.out) // returns when the process has ended
			c.stop()
			select {
			case <-ending:
				return
			case <-time.After(pause):
			}
		}
	})
	stop = func() {
		close(ending)
		mu.Lock()
		c := current
		mu.Unlock()
		if c != nil {
			c.stop()
		}
		done.Wait()
	}
	return stop, <-started
}

// waitServing waits until a connection to the address is accepted.
func waitServing(addr string) error {
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		var conn net.Conn
		if conn, err = net.DialTimeout("tcp", addr, time.Second); err == nil {
			return conn.Close()
		}
	}
	return err
}

// killBackend makes the backend at an address kill itself. It returns when the
// address refuses connections, because the kernel may close the listener last, or
// after a second, because the next process may be up by then.
func killBackend(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte{killRequest}); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, _ := conn.Read(make([]byte, 1)); n > 0 {
		return fmt.Errorf("backend %s answered instead of ending", addr)
	}
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
		if err == nil {
			conn.Close()
		}
	}
	return nil
}
