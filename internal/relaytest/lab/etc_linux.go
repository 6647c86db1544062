package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Etc is a machine's own /etc/hosts, /etc/resolv.conf and /etc/nsswitch.conf.
type Etc struct{ dir string }

// InEtc is [InNamespace] with files of its own for the names of hosts: the hosts file
// and resolv.conf are empty, and nsswitch.conf has "hosts: files dns". In the parent
// it returns nil.
func InEtc(t *testing.T) *Etc {
	t.Helper()
	if err := exec.Command("unshare", "-m", "true").Run(); err != nil {
		t.Skip("cannot create a mount namespace: ", err)
	}
	if !inNamespaces(t, syscall.CLONE_NEWNET|syscall.CLONE_NEWNS) {
		return nil
	}
	run(t, "mount", "--make-rprivate", "/")
	e := &Etc{t.TempDir()}
	for name, text := range map[string]string{"hosts": "", "resolv.conf": "", "nsswitch.conf": "hosts: files dns\n"} {
		e.Write(t, name, text)
		run(t, "mount", "--bind", filepath.Join(e.dir, name), filepath.Join("/etc", name))
	}
	t.Cleanup(func() { // else the directory cannot be removed
		run(t, "umount", "/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf")
	})
	return e
}

// Write replaces the content of a file, such as "hosts".
func (e *Etc) Write(t testing.TB, name, text string) {
	t.Helper()
	relaytest.Check(t, os.WriteFile(filepath.Join(e.dir, name), []byte(text), 0o644))
}
