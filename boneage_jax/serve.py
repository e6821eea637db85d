r"""Serve a local web page and an HTTP API that read ages.

    python -m boneage_jax.serve
    python -m boneage_jax.serve --workdir=runs/a --port=8080 --no_browser
    curl --form images=@hand.png --form sex=female http://127.0.0.1:8080/v1/predict

The page opens in the browser: drop images on it (PNG, JPEG, TIFF, BMP, DICOM, zips of them), say
the sex, and see ages with 90% intervals, what is doubtful in plain words, and where the hand was
found. Its table is the CSV that `predict` writes of the same images, digit by digit. The API is
described at /openapi.json.

It is for research, no medical device. The server listens on this machine alone and stores nothing;
neither names of files nor headers of DICOM files are logged. With another --host it asks for a
token: that of the environment's variable BONEAGE_SERVE_TOKEN, or one that is drawn and printed.
It needs the extra [serve].
"""

from boneage_jax import cli

FLAGS = cli.Flags(__doc__)
FLAGS.networks()
FLAGS.string('host', '127.0.0.1', 'address to listen at; 0.0.0.0: for all who can reach it')
FLAGS.integer('port', 0, 'port to listen at; 0 = a free one', lower_bound=0)
FLAGS.boolean('no_browser', False, 'do not open the page in the browser')
FLAGS.path('calibration', None, "a site's calibration, as boneage_jax.calibrate writes it")
FLAGS.integer('batch_size', 8, 'images at once', lower_bound=1)
FLAGS.integer('queue', 256, 'images that may wait; more are answered 503', lower_bound=1)
FLAGS.integer('max_megabytes', 512, 'of one request', lower_bound=1)


def main(argv):
    values, _ = FLAGS.parse(argv)

    from boneage_jax.analysis import ensemble
    from boneage_jax.web import server

    server.serve(
        ensemble.expand(values.workdir) if values.workdir else None,
        host=values.host,
        port=values.port,
        browser=not values.no_browser,
        calibration=values.calibration,
        batch_size=values.batch_size,
        queue=values.queue,
        max_megabytes=values.max_megabytes,
    )


if __name__ == '__main__':
    cli.run(main)
