package hook

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestMain lets the tests run this test binary as their command: with "child" as
// its first argument, it calls child instead of running tests.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "child" {
		if err := child(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(99)
		}
		os.Exit(0)
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // so that children under the race detector exit at once
	os.Exit(m.Run())
}

// child does one action and returns.
func child(action string, args []string) error {
	switch action {
	case "env": // FILE: writes the variables that the tests check
		env := slices.DeleteFunc(os.Environ(), func(entry string) bool {
			of := func(prefix string) bool { return strings.HasPrefix(entry, prefix) }
			return !of("RELAY_") && !of("HOOK_TEST_") || of("RELAY_DISABLE=") // a switch for the tests themselves
		})
		slices.Sort(env)
		return os.WriteFile(args[0], []byte(strings.Join(env, "\n")), 0o600)
	case "count": // FILE: appends the failure count of the event
		file, err := os.OpenFile(args[0], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = fmt.Fprint(file, os.Getenv(varFailures), " ")
		return err
	case "say": // STDOUT STDERR STATUS: writes and exits
		fmt.Print(args[0])
		fmt.Fprint(os.Stderr, args[1])
		status, err := strconv.Atoi(args[2])
		if err == nil {
			os.Exit(status)
		}
		return err
	case "flood": // MEGABYTES: writes that much to each output
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		megabyte := []byte(strings.Repeat("0", 1e6))
		for range n {
			_, outErr := os.Stdout.Write(megabyte)
			_, errErr := os.Stderr.Write(megabyte)
			if err := errors.Join(outErr, errErr); err != nil {
				return err
			}
		}
		return nil
	case "live": // LIFELINE: runs until the connection closes or a signal arrives
		return live(args[0])
	case "polite": // LIFELINE: like live, but prints goodbye on SIGTERM
		requests := make(chan os.Signal, 1)
		signal.Notify(requests, syscall.SIGTERM)
		go func() { // ends the process
			<-requests
			fmt.Println("goodbye")
			os.Exit(7)
		}()
		return live(args[0])
	case "stubborn": // LIFELINE: like live, but ignores SIGTERM
		signal.Ignore(syscall.SIGTERM)
		return live(args[0])
	case "fork": // LIFELINE ACTION HOW: see fork
		return fork(args[0], args[1], args[2])
	default:
		return fmt.Errorf("unknown action %q", action)
	}
}

// live echoes on a connection until it closes. The test sees by the echoes that
// this process runs, and by the closed connection that it has ended.
func live(lifeline string) error {
	conn, err := net.Dial("tcp", lifeline)
	if err != nil {
		return err
	}
	_, _ = io.Copy(conn, conn)
	return nil
}

// fork starts a child that does action on the same lifeline, and then calls live
// itself. how is a list of words:
//
//	stay   changes nothing
//	leave  the parent exits at once
//	quiet  the child does not inherit the output
//	away   the child leaves the process group
func fork(lifeline, action, how string) error {
	cmd := exec.Command(os.Args[0], "child", action, lifeline)
	if !strings.Contains(how, "quiet") {
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	}
	if strings.Contains(how, "away") {
		leaveGroup(cmd)
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if strings.Contains(how, "leave") {
		return nil
	}
	return live(lifeline)
}
