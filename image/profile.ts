/** What goes into the image, as data. What is not named here, or needed by something named here as a shared library, is not in it. */

/** Debian's meta package that names the newest kernel of the flavour made for virtual machines: small, modules uncompressed. */
export const KERNEL_META_PACKAGE = 'linux-image-cloud-amd64'

/** Modules by name; those they depend on are added and ordered by image/kernel.ts. */
export const KERNEL_MODULES = ['virtio_pci', 'virtio_net'] as const

/** Programs taken from this machine, and where they live on the device. */
export const PROGRAMS = [
  { name: 'ip', from: ['/sbin/ip', '/usr/sbin/ip', '/bin/ip'], to: '/sbin/ip', package: 'iproute2' },
  { name: 'bird', from: ['/usr/sbin/bird'], to: '/usr/sbin/bird', package: 'bird2' },
  // What confines a service of the process tier (agent/supervisor/confinement.ts).
  { name: 'prlimit', from: ['/usr/bin/prlimit'], to: '/bin/prlimit', package: 'util-linux' },
  { name: 'setpriv', from: ['/usr/bin/setpriv'], to: '/bin/setpriv', package: 'util-linux' },
  { name: 'unshare', from: ['/usr/bin/unshare'], to: '/bin/unshare', package: 'util-linux' },
] as const

/** Files of the agent's build (dist/agent) that the image carries into /app. */
export const AGENT_FILES = ['main.mjs', 'worker-host.js', 'process-host.js', 'examiner.js'] as const

/** File of the agent's build that says what Node is started with: `flags`, and an `environment`. */
export const AGENT_START_FILE = 'node.json'

/** What /init runs, with the flags in between; /etc/offbox/agent has it a word a line, the environment first. */
export const AGENT_COMMAND = { node: '/bin/node', words: ['/app/main.mjs', '--image'] } as const

/** Empty directories that /init mounts on. */
export const MOUNT_POINTS = ['/dev', '/proc', '/run', '/state', '/sys', '/tmp'] as const

/** Device nodes needed before devtmpfs is there: without /dev/console process 1 starts with no output at all. */
export const DEVICE_NODES = [
  { path: '/dev/console', mode: 0o600, major: 5, minor: 1 },
  { path: '/dev/null', mode: 0o666, major: 1, minor: 3 },
] as const

/**
 * A library that the image replaces by one of its own (image/no-ssh.c): BIRD links libssh for one transport of RPKI that a
 * device does not use, and with it come libgcrypt and Kerberos.
 */
export const REPLACED_LIBRARY = { soname: 'libssh-gcrypt.so.4', source: 'no-ssh.c', versions: 'no-ssh.map' } as const

/** Flags that make gcc's output depend on its input alone. */
export const COMPILE_FLAGS = ['-Os', '-s', '-Wall', '-Wl,--build-id=none', '-ffile-prefix-map=/=', '-fno-ident'] as const

/** Debian packages that building an image needs, with a file each that proves its presence. Also part of fleet/lab/needs.mjs. */
export const BUILD_NEEDS = [
  { file: '/usr/bin/gcc', package: 'gcc', why: 'compiles /init' },
  { file: '/usr/lib/x86_64-linux-gnu/libc.a', package: 'libc6-dev', why: 'links /init statically' },
  { file: '/usr/sbin/bird', package: 'bird2', why: 'the routing daemon of the image' },
  { file: '/usr/lib/x86_64-linux-gnu/libatomic.so.1', package: 'libatomic1', why: 'a library of Node 26' },
  { file: '/bin/ip', package: 'iproute2', why: 'brings up the network card' },
  { file: '/usr/bin/setpriv', package: 'util-linux', why: 'confines services in processes of their own' },
  { file: '/usr/bin/dpkg', package: 'dpkg', why: 'unpacks the kernel' },
  { file: '/usr/bin/apt-get', package: 'apt', why: 'downloads the kernel' },
] as const
