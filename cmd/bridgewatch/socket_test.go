// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The socket is for root, and for the group that it is given to.
func TestListenUnix(t *testing.T) {
	path := filepath.Join(socketFolder(t), "new", "api.sock")
	for range 2 { // the second finds what the first, killed, has left
		listener, err := listenUnix(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o660 {
			t.Errorf("mode is %v, want 0660", info.Mode().Perm())
		}
		listener.(*net.UnixListener).SetUnlinkOnClose(false)
		listener.Close()
	}
}

// Nothing is removed that is not a dead agent's.
func TestListenUnixRemovesNothingElse(t *testing.T) {
	folder := socketFolder(t)
	file, used := filepath.Join(folder, "file"), filepath.Join(folder, "used.sock")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	other, err := listenUnix(used)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for _, path := range []string{file, used, folder} {
		listener, err := listenUnix(path)
		if err == nil {
			listener.Close()
			t.Errorf("listening on %s worked", path)
			continue
		}
		if !strings.Contains(err.Error(), "--api.socket") || !strings.Contains(err.Error(), path) {
			t.Errorf("error is %q, want it to name the flag and %s", err, path)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "precious" {
		t.Errorf("the file is %q, %v", text, err)
	}
	if connection, err := net.Dial("unix", used); err != nil {
		t.Errorf("the other agent's socket: %v", err)
	} else {
		connection.Close()
	}
}
