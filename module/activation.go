package module

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/async-relay/caddy-relay/internal/listen"
)

// activated holds the sockets that the service manager has passed to the process, by
// the number of their descriptor. They stay open: Caddy's network fd/ uses them too.
var activated []*os.File

// firstActivated is the number of the first descriptor (SD_LISTEN_FDS_START).
const firstActivated = 3

// inheritSockets makes the sockets that the service manager has passed to the process
// available to our networks. It must be called before the first config is loaded.
// Sockets that are of no use to them are left out: another app may use them.
func inheritSockets() {
	activated = activation.Files(false)
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for i, file := range activated {
		socket, err := listen.InheritedSocket(file)
		if err != nil {
			continue
		}
		socket.Number = firstActivated + i
		if i < len(names) {
			socket.Name = names[i]
		}
		sockets.Inherit(socket)
	}
}

// activatedName returns the name or number of a socket of the service manager in the
// host of an address such as relay+tcp/fd/web. ok is false for any other host.
func activatedName(host string) (name string, ok bool) { return strings.CutPrefix(host, "fd/") }

// checkActivated returns an error for an address fd/NAME that no socket can have.
func checkActivated(name string, port uint) error {
	number, err := strconv.Atoi(name)
	switch {
	case name == "":
		return errors.New("the name or the number of a socket is missing, such as fd/web or fd/3")
	case port != 0:
		return fmt.Errorf("fd/%s: a socket of the service manager has its port already, remove :%d", name, port)
	case err == nil && number < firstActivated:
		return fmt.Errorf("fd/%s: the first socket has the number %d", name, firstActivated)
	}
	return nil
}
