//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// describe records the facts that a reader needs to judge and repeat the numbers. It
// keeps those of an earlier run whose results these are added to.
func (r *results) describe(b *bench) {
	facts := []string{
		fmt.Sprintf("%s, `%s`", time.Now().UTC().Format("2006-01-02"), commandLine()),
		fmt.Sprintf("Linux %s, %s, %d cores, %s", kernel(), runtime.GOARCH, runtime.NumCPU(), runtime.Version()),
		fmt.Sprintf("median of %d rounds of %v", b.rounds, b.window),
		b.network.fact(),
	}
	if b.built != "" {
		facts = append(facts, "this relay at "+b.built)
	}
	var peers []string
	r.Columns = nil
	for _, t := range b.targets {
		r.Columns = append(r.Columns, t.name)
		if t.version != "" {
			peers = append(peers, t.name+" "+t.version)
		}
	}
	facts = append(facts, "peers: "+strings.Join(peers, ", "),
		fmt.Sprintf("workers: nginx 2, haproxy 2 threads, Caddy unchanged (GOMAXPROCS %d), but in rows on one core; limit of %d descriptors", runtime.NumCPU(), b.files))
	for _, fact := range facts {
		if !slices.Contains(r.Facts, fact) {
			r.Facts = append(r.Facts, fact)
		}
	}
}

// commit returns the commit of the work tree. It is read at the start, because
// the work tree may change during the run.
func commit() string {
	return strings.TrimSpace(output("git", "describe", "--always", "--dirty=, modified"))
}

// commandLine returns the command as it was typed, with go run.
func commandLine() string {
	args := append([]string{"go run ./bench"}, os.Args[1:]...)
	for i, arg := range args {
		switch {
		case i > 0 && filepath.IsAbs(arg):
			args[i] = "FILE"
		case i > 0 && strings.ContainsAny(arg, " |()*$?"):
			args[i] = "'" + arg + "'"
		}
	}
	return strings.Join(args, " ")
}

func kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "?"
	}
	release, _, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), "-") // the rest names the builder
	return release
}
