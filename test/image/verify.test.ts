import t from 'tap'
import type { Entry } from '../../image/cpio.ts'
import { checkEntry } from '../../image/verify.ts'
import { privateKeyPem, publicTrust } from './stand-in.ts'

const file = (path: string, text = 'x', mode = 0o755): Entry => ({ path, mode, type: 'file', data: Buffer.from(text) })
const rules = (entry: Entry) => checkEntry(entry).map((violation) => violation.rule)

t.test('an expected file is fine', async (t) => {
  for (const path of ['/init', '/bin/node', '/usr/sbin/bird', '/app/main.mjs', '/lib/x86_64-linux-gnu/libstdc++.so.6']) t.same(rules(file(path)), [], path)
})

t.test('programs that give a prompt, let somebody in or install things are named by their rule', async (t) => {
  const found = {
    shell: ['/bin/sh', '/bin/bash', '/bin/busybox', '/usr/bin/python3.11', '/usr/bin/perl'],
    ssh: ['/usr/sbin/sshd', '/usr/bin/ssh', '/usr/bin/dropbearmulti', '/etc/ssh/ssh-host.key/ssh-x', '/root/.ssh/authorized_keys'],
    login: ['/bin/login', '/sbin/agetty', '/bin/su', '/usr/bin/passwd', '/etc/passwd', '/etc/shadow', '/usr/sbin/telnetd'],
    'package manager': ['/usr/bin/apt-get', '/usr/bin/dpkg', '/usr/bin/npm', '/sbin/apk', '/usr/bin/pip3'],
  }
  for (const [rule, paths] of Object.entries(found)) for (const path of paths) t.ok(rules(file(path)).includes(rule), path)
})

t.test('a shell or an SSH server is found under any name, a script by its first bytes', async (t) => {
  t.same(rules(file('/bin/node', 'ELF..BASH_VERSION..')), ['shell'])
  t.same(rules(file('/usr/sbin/bird', 'BusyBox v1.36.1')), ['shell'])
  t.same(rules(file('/usr/sbin/bird', 'SSH-2.0-OpenSSH')), ['ssh'])
  t.same(rules(file('/init', '#!/bin/node\n')), ['shell'])
})

t.test('setuid, setgid and world-writable files are found', async (t) => {
  t.same(rules(file('/sbin/ip', 'x', 0o4755)), ['setuid'])
  t.same(rules(file('/sbin/ip', 'x', 0o2755)), ['setuid'])
  t.same(rules(file('/app/main.mjs', 'x', 0o666)), ['world-writable'])
})

t.test('a private key is found wherever it is; the mere words are not one', async (t) => {
  t.same(rules(file('/app/main.mjs', `const key = \`${privateKeyPem()}\``)), ['private key'])
  t.same(rules(file('/app/main.mjs', "pem.startsWith('-----BEGIN PRIVATE KEY-----')")), [])
})

t.test('anchors that hold anything but public values are refused', async (t) => {
  const caPem = '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n'
  const good = { fleet: 'lab', caPem, bundleKeys: ['ab'.repeat(32)] }
  const anchors = (value: unknown) => rules(file('/etc/offbox/anchors.json', JSON.stringify(value), 0o644))
  t.same(anchors(good), [])
  t.same(anchors({ ...good, secretKey: 'ab'.repeat(64) }), ['private key'])
  t.same(anchors({ ...good, bundleKeys: ['ab'.repeat(64)] }), ['private key'])
  t.same(anchors({ ...good, caPem: `${caPem}${privateKeyPem()}` }), ['private key', 'private key'])
  t.same(rules(file('/etc/offbox/anchors.json', '{', 0o644)), ['private key'])
  const trust = publicTrust()
  t.same(anchors({ ...good, trust }), [], 'what a device needs to check metadata is public')
  t.same(anchors({ ...good, trust: { ...trust, seed: 'ab'.repeat(32) } }), ['private key'])
  t.same(anchors({ ...good, trust: { ...trust, witnessKeys: ['no key'] } }), ['private key'])
  const changed = (from: string, to: string) => ({ ...good, trust: { ...trust, root: trust.root.replace(from, to) } })
  t.same(anchors(changed('"keyval":{', `"keyval":{"private":"${'ab'.repeat(32)}",`)), ['private key'], 'a key with its secret half')
  t.same(anchors(changed('"version"', `"seed":"${'ab'.repeat(32)}","version"`)), ['private key'])
  t.same(anchors(changed('"sig":"', '"sig":"0')), ['private key'])
  t.same(anchors({ ...good, trust: { ...trust, root: 'not JSON' } }), ['private key'])
})

t.test('a file that nobody meant to be there is found', async (t) => {
  for (const path of ['/root/notes', '/app/extra.mjs', '/etc/offbox/ca.key', '/usr/lib/tool', '/lib/x86_64-linux-gnu/plugin.node']) {
    t.ok(rules(file(path)).includes('unexpected'), path)
  }
  t.same(rules({ path: '/bin/x', mode: 0o777, type: 'symlink', target: 'node' }), ['world-writable', 'unexpected'])
})
