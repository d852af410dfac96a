/** offbox image … : runs image/build.ts and image/verify.ts as programs; nothing of theirs is imported. */
import { spawn } from 'node:child_process'
import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import { OffboxError } from '../../../core/errors.ts'
import { action, type CommonOptions, type Context, leaf } from '../context.ts'

const root = join(import.meta.dirname, '../../..')

export function imageCommands(top: Command): void {
  const group = top.command('image').description('the network image: kernel and initramfs')

  leaf(group, 'build', 'build the image with this fleet’s anchors in it', ['offbox image build', 'offbox image build --out /srv/image'])
    .option('--out <dir>', 'where to put it (default: HOME/image)')
    .option('--zstd-level <n>', 'compression, 1 to 19')
    .option('--development', 'also without a trust repository: devices run whatever a bundle key signed')
    .action(
      action<CommonOptions & { out?: string; zstdLevel?: string; development?: boolean }, []>(async (context, options) => {
        const out = resolve(options.out ?? context.home.image)
        const extra = [...(options.zstdLevel === undefined ? [] : ['--zstd-level', options.zstdLevel]), ...(options.development ? ['--development'] : [])]
        await runProgram(context, 'image/build.ts', ['--home', context.home.path, '--out', out, ...extra])
      }),
    )

  leaf(group, 'verify', 'read the built image back and fail on any shell, login, private key …', ['offbox image verify'])
    .option('--image <dir>', 'the image (default: HOME/image)')
    .action(
      action<CommonOptions & { image?: string }, []>(async (context, options) => {
        await runProgram(context, 'image/verify.ts', ['--image', resolve(options.image ?? context.home.image)])
      }),
    )
}

/** The program prints for itself, in our form: results on stdout, words on stderr. */
async function runProgram(context: Context, file: string, args: readonly string[]): Promise<void> {
  const { print, signal } = context
  const child = spawn(process.execPath, [join(root, file), ...args, ...(print.json ? ['--json'] : [])], { stdio: 'inherit', cwd: root })
  const stop = () => child.kill('SIGTERM')
  signal.addEventListener('abort', stop, { once: true })
  const code = await new Promise<number>((done, fail) => {
    child.on('error', (error) => fail(new OffboxError('SETUP_MISSING', `${file} cannot be run: ${error.message}`, { cause: error })))
    child.on('exit', (status, by) => done(status ?? (by ? 1 : 0)))
  })
  signal.removeEventListener('abort', stop)
  context.exitCode = code
}
