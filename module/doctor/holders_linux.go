package doctor

import (
	"fmt"
	"slices"

	"github.com/prometheus/procfs"
)

// listening is the state TCP_LISTEN of a socket in /proc/net/tcp. A UDP socket has
// none.
const listening = 10

// holdersOf returns the processes that have a socket of a port, as far as this user
// may see them.
func holdersOf(network string, port uint16) (found []holder) {
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return nil
	}
	owners := socketsOf(proc, network, port) // user ids by inode
	if len(owners) == 0 {
		return nil
	}
	all, err := proc.AllProcs()
	if err != nil {
		return nil
	}
	for _, p := range all {
		targets, err := p.FileDescriptorTargets()
		if err != nil {
			continue // another user's process
		}
		for inode, uid := range owners {
			if slices.Contains(targets, fmt.Sprintf("socket:[%d]", inode)) {
				name, _ := p.Comm()
				found = append(found, holder{p.PID, name, uid})
				delete(owners, inode) // also of a child that has inherited it
			}
		}
	}
	for _, uid := range owners {
		found = append(found, holder{uid: uid})
	}
	return found
}

// socketsOf returns the owners of the sockets of a port by inode.
func socketsOf(proc procfs.FS, network string, port uint16) map[uint64]uint64 {
	var lines procfs.NetTCP
	if network == "udp" {
		four, _ := proc.NetUDP()
		six, _ := proc.NetUDP6()
		lines = append(procfs.NetTCP(four), procfs.NetTCP(six)...)
	} else {
		//lint:ignore SA1019 the files also name the inodes, and are read once
		four, _ := proc.NetTCP()
		//lint:ignore SA1019 like the line for IPv4
		six, _ := proc.NetTCP6()
		lines = append(four, six...)
	}
	owners := make(map[uint64]uint64)
	for _, line := range lines {
		if line.LocalPort == uint64(port) && (network == "udp" || line.St == listening) {
			owners[line.Inode] = line.UID
		}
	}
	return owners
}

// unitOf returns the systemd unit of a process, or "".
func unitOf(pid int) string {
	proc, err := procfs.NewProc(pid)
	if err != nil {
		return ""
	}
	groups, err := proc.Cgroups()
	if err != nil {
		return ""
	}
	for _, g := range groups {
		if unit := unitIn(g.Path); unit != "" {
			return unit
		}
	}
	return ""
}

// openFilesOf returns the descriptor limit of a process, or 0 if it is not known.
func openFilesOf(pid int) uint64 {
	proc, err := procfs.NewProc(pid)
	if err != nil {
		return 0
	}
	limits, err := proc.Limits()
	if err != nil {
		return 0
	}
	return limits.OpenFiles
}
