// Calls each function of etcd's v2 client for Go (go.etcd.io/etcd/client) on the server at $URL. One line a test.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/client"
)

const root = "/go"

func test(name string, run func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Printf("fail %s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", " "))
		return
	}
	fmt.Printf("pass %s\n", name)
}

// holds makes an error of a condition that does not hold.
func holds(condition bool, err error, seen interface{}) error {
	if err == nil && !condition {
		return fmt.Errorf("unexpected: %+v", seen)
	}
	return err
}

// refused expects an error of the server.
func refused(code int, err error) error {
	if refusal, ok := err.(client.Error); ok && refusal.Code == code {
		return nil
	}
	return fmt.Errorf("expected error %d: %v", code, err)
}

func main() {
	c, err := client.New(client.Config{Endpoints: []string{os.Getenv("URL")}})
	if err != nil {
		fmt.Printf("fail New: %s\n", err)
		return
	}
	ofClient(c)
	ofKeys(client.NewKeysAPI(c))
	ofMembers(client.NewMembersAPI(c))
	ofAuth(client.NewAuthRoleAPI(c), client.NewAuthUserAPI(c))
}

func ofClient(c client.Client) {
	test("GetVersion", func(ctx context.Context) error {
		v, err := c.GetVersion(ctx)
		return holds(err == nil && v.Server != "" && v.Cluster != "", err, v)
	})
	test("Sync", func(ctx context.Context) error {
		err := c.Sync(ctx)
		return holds(len(c.Endpoints()) > 0, err, c.Endpoints())
	})
	test("AutoSync", func(ctx context.Context) error {
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		if err := c.AutoSync(short, 100*time.Millisecond); err != context.DeadlineExceeded {
			return fmt.Errorf("unexpected end: %v", err)
		}
		return nil
	})
	test("SetEndpoints", func(ctx context.Context) error {
		return c.SetEndpoints([]string{os.Getenv("URL")})
	})
}

func ofKeys(k client.KeysAPI) {
	k.Delete(context.Background(), root, &client.DeleteOptions{Recursive: true})
	test("Set", func(ctx context.Context) error {
		r, err := k.Set(ctx, root+"/a", "one", nil)
		return holds(err == nil && r.Action == "set" && r.Node.Value == "one", err, r)
	})
	test("Get", func(ctx context.Context) error {
		r, err := k.Get(ctx, root+"/a", nil)
		return holds(err == nil && r.Node.Value == "one" && r.Index > 0 && r.ClusterID != "", err, r)
	})
	test("Get Quorum", func(ctx context.Context) error {
		r, err := k.Get(ctx, root, &client.GetOptions{Quorum: true, Recursive: true, Sort: true})
		return holds(err == nil && r.Node.Dir && len(r.Node.Nodes) == 1, err, r)
	})
	test("Get missing", func(ctx context.Context) error {
		_, err := k.Get(ctx, root+"/none", nil)
		return refused(client.ErrorCodeKeyNotFound, err)
	})
	test("Create", func(ctx context.Context) error {
		r, err := k.Create(ctx, root+"/b", "two")
		return holds(err == nil && r.Action == "create", err, r)
	})
	test("Create existing", func(ctx context.Context) error {
		_, err := k.Create(ctx, root+"/b", "two")
		return refused(client.ErrorCodeNodeExist, err)
	})
	test("CreateInOrder", func(ctx context.Context) error {
		r, err := k.CreateInOrder(ctx, root+"/queue", "job", &client.CreateInOrderOptions{TTL: time.Minute})
		return holds(err == nil && strings.HasPrefix(r.Node.Key, root+"/queue/") && r.Node.TTL > 0, err, r)
	})
	test("Update", func(ctx context.Context) error {
		r, err := k.Update(ctx, root+"/b", "three")
		return holds(err == nil && r.PrevNode.Value == "two", err, r)
	})
	test("Set PrevValue", func(ctx context.Context) error {
		r, err := k.Set(ctx, root+"/b", "four", &client.SetOptions{PrevValue: "three"})
		return holds(err == nil && r.Action == "compareAndSwap", err, r)
	})
	test("Set PrevIndex differs", func(ctx context.Context) error {
		_, err := k.Set(ctx, root+"/b", "five", &client.SetOptions{PrevIndex: 1})
		return refused(client.ErrorCodeTestFailed, err)
	})
	test("Set TTL", func(ctx context.Context) error {
		r, err := k.Set(ctx, root+"/t", "short", &client.SetOptions{TTL: time.Minute})
		return holds(err == nil && r.Node.TTL > 0 && r.Node.Expiration != nil && r.Node.TTLDuration() > 0, err, r)
	})
	test("Set Refresh", func(ctx context.Context) error {
		options := client.SetOptions{TTL: 2 * time.Minute, Refresh: true, PrevExist: client.PrevExist}
		r, err := k.Set(ctx, root+"/t", "", &options)
		return holds(err == nil && r.Node.TTL > 60 && r.Node.Value == "short", err, r)
	})
	test("Set Dir", func(ctx context.Context) error {
		r, err := k.Set(ctx, root+"/dir", "", &client.SetOptions{Dir: true})
		return holds(err == nil && r.Node.Dir, err, r)
	})
	test("Set NoValueOnSuccess", func(ctx context.Context) error {
		r, err := k.Set(ctx, root+"/a", "six", &client.SetOptions{NoValueOnSuccess: true})
		return holds(err == nil && r.Node == nil, err, r)
	})
	test("Watcher", func(ctx context.Context) error {
		w := k.Watcher(root, &client.WatcherOptions{Recursive: true})
		go func() {
			time.Sleep(300 * time.Millisecond)
			k.Set(ctx, root+"/w", "seen", nil)
		}()
		r, err := w.Next(ctx)
		if err := holds(err == nil && r.Node.Value == "seen", err, r); err != nil {
			return err
		}
		k.Set(ctx, root+"/w", "again", nil)
		r, err = w.Next(ctx)
		return holds(err == nil && r.Node.Value == "again", err, r)
	})
	test("Watcher AfterIndex", func(ctx context.Context) error {
		set, err := k.Set(ctx, root+"/w", "past", nil)
		if err != nil {
			return err
		}
		r, err := k.Watcher(root+"/w", &client.WatcherOptions{AfterIndex: set.Node.ModifiedIndex - 1}).Next(ctx)
		return holds(err == nil && r.Node.Value == "past", err, r)
	})
	test("Delete PrevValue", func(ctx context.Context) error {
		r, err := k.Delete(ctx, root+"/b", &client.DeleteOptions{PrevValue: "four"})
		return holds(err == nil && r.Action == "compareAndDelete", err, r)
	})
	test("Delete", func(ctx context.Context) error {
		r, err := k.Delete(ctx, root, &client.DeleteOptions{Recursive: true, Dir: true})
		return holds(err == nil && r.Action == "delete", err, r)
	})
}

func ofMembers(m client.MembersAPI) {
	var leader *client.Member
	test("Leader", func(ctx context.Context) (err error) {
		leader, err = m.Leader(ctx)
		return holds(err == nil && leader.ID != "" && len(leader.PeerURLs) == 1, err, leader)
	})
	test("List", func(ctx context.Context) error {
		members, err := m.List(ctx)
		if err != nil {
			return err
		}
		for _, member := range members {
			if leader != nil && member.ID == leader.ID {
				return nil
			}
		}
		return fmt.Errorf("the leader is not listed: %v", members)
	})
	// A member is not added: the reference, alone, would lose its majority.
	test("Remove missing", func(ctx context.Context) error {
		if err := m.Remove(ctx, "abcdef0123456789"); err == nil {
			return fmt.Errorf("removed")
		}
		return nil
	})
}

func ofAuth(roles client.AuthRoleAPI, users client.AuthUserAPI) {
	test("ListRoles", func(ctx context.Context) error {
		_, err := roles.ListRoles(ctx)
		return err
	})
	test("ListUsers", func(ctx context.Context) error {
		_, err := users.ListUsers(ctx)
		return err
	})
	test("AddUser", func(ctx context.Context) error {
		return users.AddUser(ctx, "someone", "secret")
	})
	test("AddRole", func(ctx context.Context) error {
		return roles.AddRole(ctx, "reader")
	})
}
