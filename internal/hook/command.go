package hook

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os/exec"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// maxOutput bounds the bytes that are kept of stdout and of stderr. The rest is
// read and discarded, because a command whose output is not read would block.
const maxOutput = 4 << 10

// stopGrace is how long a process group may take to end after SIGTERM before it
// is killed, and how long its output may stay open after that.
const stopGrace = time.Second

var errTimeout = errors.New("timeout exceeded")

// command is a command that was started.
type command struct {
	cmd            *exec.Cmd
	stdout, stderr io.ReadCloser

	done    chan struct{} // closed once the command has ended; the fields below are set then
	out     string        // the beginning of stdout
	errOut  string        // the beginning of stderr
	waitErr error         // the result of exec.Cmd.Wait
}

// execute runs a command until it ends, exceeds its timeout or ctx ends, and
// logs the result.
func execute(ctx context.Context, j job) {
	ctx, cancel := context.WithTimeoutCause(ctx, j.timeout(), errTimeout)
	defer cancel()
	run(ctx, j)
}

// run runs a command until it ends or ctx ends, and logs the result.
func run(ctx context.Context, j job) {
	started := time.Now()
	c, err := start(j)
	if err != nil {
		j.Log.Error(startFailure(err), append(j.fields(), zap.Error(err))...)
		return
	}
	var cause error
	select {
	case <-c.done:
	case <-ctx.Done():
		cause = c.stop(context.Cause(ctx))
	}
	c.logEnd(j, time.Since(started), cause)
}

func start(j job) (*command, error) {
	cmd := exec.Command(j.Command, j.Args...)
	cmd.Env = j.event.environ()
	setGroup(cmd)
	stdout, outErr := cmd.StdoutPipe()
	stderr, errErr := cmd.StderrPipe()
	if err := errors.Join(outErr, errErr); err != nil {
		cmd.Err = err // makes Start return err and close the other pipe
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &command{cmd: cmd, stdout: stdout, stderr: stderr, done: make(chan struct{})}
	go c.wait() // returns when the command ends; run ensures that it does
	return c, nil
}

// wait reads all output and then reaps the process. The order matters: the
// process group is named by the leader's process id, which the system may reuse
// once the leader has been reaped.
func (c *command) wait() {
	defer close(c.done)
	var outputs sync.WaitGroup
	outputs.Go(func() { c.out = readHead(c.stdout) })
	outputs.Go(func() { c.errOut = readHead(c.stderr) })
	outputs.Wait()
	c.waitErr = c.cmd.Wait()
}

// readHead reads r to its end and returns the beginning. A read error counts as
// the end: it means that stop closed the pipe.
func readHead(r io.Reader) string {
	head, _ := io.ReadAll(io.LimitReader(r, maxOutput))
	_, _ = io.Copy(io.Discard, r)
	return strings.TrimSpace(string(head))
}

// stop terminates the process group, kills it after stopGrace, and returns when
// the command has ended. It returns cause, or nil if the command had ended
// before.
func (c *command) stop(cause error) error {
	select {
	case <-c.done:
		return nil
	default:
	}
	terminate(c.cmd.Process)
	if c.groupEndsWithin(stopGrace) {
		return cause
	}
	kill(c.cmd.Process)
	select {
	case <-c.done:
		return cause
	case <-time.After(stopGrace):
	}
	// A process that left the group holds the output, so close our side of it.
	// If the kernel still holds the process itself, the only choice is to wait.
	_ = c.stdout.Close()
	_ = c.stderr.Close()
	<-c.done
	return cause
}

// groupEndsWithin waits for the command and its whole process group to end. It
// reports whether they did so in time.
func (c *command) groupEndsWithin(limit time.Duration) bool {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-c.done:
	case <-timeout.C:
		return false
	}
	for groupAlive(c.cmd.Process) { // only children can be waited for, so poll
		select {
		case <-time.After(10 * time.Millisecond):
		case <-timeout.C:
			return false
		}
	}
	return true
}

// fields returns the fields that all log lines about a command have.
func (j *job) fields() []zap.Field {
	return append(make([]zap.Field, 0, 8),
		zap.String("service", j.event.Service),
		zap.String("event", j.event.Type),
		zap.String("command", j.Command))
}

// logEnd logs the end of a command. cause is the reason why it was stopped, or
// nil if it ended by itself.
func (c *command) logEnd(j job, duration time.Duration, cause error) {
	fields := append(j.fields(), zap.Duration("duration", duration), zap.Int("exit_status", c.cmd.ProcessState.ExitCode()))
	output := []zap.Field{zap.String("stdout", c.out), zap.String("stderr", c.errOut)}
	switch {
	case errors.Is(cause, errTimeout):
		j.Log.Error("event command timed out", append(append(fields, output...), zap.Error(cause))...)
	case cause != nil:
		j.Log.Warn("event command ended early", append(append(fields, output...), zap.Error(cause))...)
	case c.waitErr != nil:
		j.Log.Warn("event command failed", append(fields, zap.String("stderr", c.errOut), zap.Error(c.waitErr))...)
	default:
		j.Log.Info("event command succeeded", fields...)
		if c.out != "" || c.errOut != "" {
			j.Log.Debug("event command output", append(j.fields(), output...)...)
		}
	}
}

// startFailure returns the log message for a command that could not be started.
func startFailure(err error) string {
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return "event command not found"
	case errors.Is(err, fs.ErrPermission):
		return "event command not executable"
	default:
		return "event command not started"
	}
}
