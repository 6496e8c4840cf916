# seqloom serve in a container, on the CPU, for a model's folder that is mounted at /model:
#
#   docker build -t seqloom-serve .
#   docker run --init -p 127.0.0.1:5000:5000 -v "$PWD/runs/mine:/model:ro" seqloom-serve /model --languages en de
#
# What stands behind the image's name are the words of seqloom serve. docs/serving.md says the rest.
FROM python:3.12-slim

RUN useradd --create-home --uid 1000 seqloom

WORKDIR /src
COPY . .
# torch for CPUs, a tenth of the size of what PyPI has for GPUs; all else at the versions that are tested together.
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu -c constraints.txt \
    '.[serve,ctranslate2,onnx]'

USER seqloom
WORKDIR /home/seqloom
EXPOSE 5000
HEALTHCHECK --start-period=120s --interval=30s --timeout=5s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5000/health', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["seqloom", "serve", "--host=0.0.0.0"]
CMD ["/model"]
