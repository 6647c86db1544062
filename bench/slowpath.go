//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// slowPath is a network of two hosts that are 20 ms away from each other, there and
// back. Each host is a network namespace with a TUN device, and a process of the
// bench carries the packets between the two devices. That needs nothing of the
// kernel but TUN, unlike netem.
type slowPath struct {
	home, near *os.File // namespaces: of the bench, and of the targets and their clients
	backend    string   // address of an echo service on the far host
	echo, wire *child
}

const (
	pathDelay      = 10 * time.Millisecond // in each direction
	nearIP, farIP  = "10.88.0.1", "10.88.0.2"
	pathDevice     = "tun0"
	threadNetworks = "/proc/thread-self/ns/net"
)

// newSlowPath makes the network. Its caller's goroutine must be locked to its thread.
func newSlowPath(dir string) (p *slowPath, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("it needs root, for network namespaces and TUN devices")
	}
	p = &slowPath{}
	defer func() {
		if err != nil {
			p.close()
			p = nil
		}
	}()
	if p.home, err = os.Open(threadNetworks); err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, join(p.home)) }()
	nearDevice, err := newHost(nearIP)
	if err != nil {
		return p, err
	}
	defer nearDevice.Close()
	if p.near, err = os.Open(threadNetworks); err != nil {
		return p, err
	}
	farDevice, err := newHost(farIP)
	if err != nil {
		return p, err
	}
	defer farDevice.Close()
	if p.echo, p.backend, err = startEcho(dir, farIP+":0"); err != nil {
		return p, err
	}
	p.wire, err = startChildWith(dir, nil, []*os.File{nearDevice, farDevice}, os.Args[0], "wire")
	return p, err
}

// enter moves the calling goroutine's thread, and processes that it starts, to the
// near host until leave.
func (p *slowPath) enter() (leave func(), err error) {
	return func() { _ = join(p.home) }, join(p.near)
}

func (p *slowPath) close() {
	for _, c := range []*child{p.echo, p.wire} {
		if c != nil {
			c.stop()
		}
	}
	for _, f := range []*os.File{p.home, p.near} {
		if f != nil {
			_ = f.Close()
		}
	}
}

func join(namespace *os.File) error {
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("joining a network namespace: %w", err)
	}
	return nil
}

// newHost moves the thread to a new network namespace with loopback and a TUN device.
// All addresses of the device's network but its own are on the other side.
func newHost(ip string) (device *os.File, err error) {
	if err := newNetwork(); err != nil {
		return nil, err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	device = os.NewFile(uintptr(fd), pathDevice)
	set, err := unix.NewIfreq(pathDevice)
	if err == nil {
		set.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, set)
	}
	if err == nil {
		// As on loopback by default. Otherwise the ports of ended connections run out, and
		// connect(2) spends ten times the CPU time to find a free one.
		err = os.WriteFile("/proc/sys/net/ipv4/tcp_tw_reuse", []byte("1"), 0)
	}
	if err == nil {
		err = up(pathDevice, ip)
	}
	if err != nil {
		_ = device.Close()
		return nil, fmt.Errorf("making a TUN device: %w", err)
	}
	return device, nil
}

// up switches a device on, with an address in a network of 256 unless it is empty.
func up(device, ip string) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	set, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	if ip != "" {
		for _, step := range []struct {
			request uint
			addr    string
		}{{unix.SIOCSIFADDR, ip}, {unix.SIOCSIFNETMASK, "255.255.255.0"}} {
			if err := set.SetInet4Addr(net.ParseIP(step.addr).To4()); err != nil {
				return err
			}
			if err := unix.IoctlIfreq(socket, step.request, set); err != nil {
				return err
			}
		}
	}
	set.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, set)
}

// serveWire carries packets between the two TUN devices that it was started with. It
// returns when its input ends.
func serveWire(in io.Reader) error {
	const firstFile = 3 // of os/exec's ExtraFiles
	near, far := os.NewFile(firstFile, "near"), os.NewFile(firstFile+1, "far")
	go carry(near, far)
	go carry(far, near)
	_, err := io.Copy(io.Discard, in)
	return err
}

// carry writes each packet to a device after it has been read from another one for
// the time of the delay.
func carry(from, to *os.File) {
	type delayed struct {
		packet []byte
		at     time.Time
	}
	queue := make(chan delayed, 100_000)
	go func() {
		for p := range queue {
			time.Sleep(time.Until(p.at))
			_, _ = to.Write(p.packet)
		}
	}()
	defer close(queue)
	for {
		buf := make([]byte, 2048)
		n, err := from.Read(buf)
		if err != nil {
			fmt.Fprintln(os.Stderr, "wire:", err)
			return
		}
		queue <- delayed{buf[:n], time.Now().Add(pathDelay)}
	}
}
