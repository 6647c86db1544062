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

// TestMain makes the test binary the command of its own tests: what
// [rig.run] starts is this program with "child" and a list of arguments.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "child" {
		if err := child(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(99)
		}
		os.Exit(0)
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // children need not dwell on what they found
	os.Exit(m.Run())
}

func child(what string, args []string) error {
	switch what {
	case "env": // FILE: what tests look at of the environment
		env := slices.DeleteFunc(os.Environ(), func(entry string) bool {
			return !strings.HasPrefix(entry, "RELAY_") && !strings.HasPrefix(entry, "HOOK_TEST_")
		})
		slices.Sort(env)
		return os.WriteFile(args[0], []byte(strings.Join(env, "\n")), 0o600)
	case "count": // FILE: notes which event of a test this is
		file, err := os.OpenFile(args[0], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = fmt.Fprint(file, os.Getenv(varFailures), " ")
		return err
	case "say": // STDOUT STDERR STATUS
		fmt.Print(args[0])
		fmt.Fprint(os.Stderr, args[1])
		status, err := strconv.Atoi(args[2])
		if err == nil {
			os.Exit(status)
		}
		return err
	case "flood": // MEGABYTES, on each output
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
	case "live": // LIFELINE: until somebody ends it
		return live(args[0])
	case "polite": // LIFELINE: the same, and says goodbye
		requests := make(chan os.Signal, 1)
		signal.Notify(requests, syscall.SIGTERM)
		go func() { // ends the process
			<-requests
			fmt.Println("goodbye")
			os.Exit(7)
		}()
		return live(args[0])
	case "stubborn": // LIFELINE: the same, and a request to end is not heard
		signal.Ignore(syscall.SIGTERM)
		return live(args[0])
	case "fork": // LIFELINE WHAT HOW: a child with the same lifeline that does WHAT, and lives beside it unless told to
		return fork(args[0], args[1], args[2])
	default:
		return fmt.Errorf("nothing is known of %s", what)
	}
}

// live echoes on a connection, so that a test can tell that this process lives,
// and notices when it does not.
func live(lifeline string) error {
	conn, err := net.Dial("tcp", lifeline)
	if err != nil {
		return err
	}
	_, _ = io.Copy(conn, conn)
	return nil
}

// fork starts a child. How says what becomes of its parent, and of the output
// and the group that the child has from it.
func fork(lifeline, what, how string) error {
	cmd := exec.Command(os.Args[0], "child", what, lifeline)
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
