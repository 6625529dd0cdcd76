"""Mistakes on the command line: one sentence with the value and the fix, before anything is made."""

import io
import re
import shlex
import zipfile
from functools import cache
from importlib import import_module

import numpy as np
import pytest
from commands import DIGITS, ROOT, TINY
from forked import run_script
from PIL import Image

from lit_diffusion.common.compose import check_keys, composed
from lit_diffusion.common.errors import explain
from lit_diffusion.common.overrides import unclear

TRAIN = [*DIGITS, *TINY["small_unet"], "debug=limit", "sampler.steps=2", "logger=none"]

# Overrides of a command, and what its sentence says of them.
MISTAKES = {
    "train": """
        seed=abc                                            seed is abc
        data.source.root=~/data                             data.source.root is ~/data, and only a shell
        ckpt='"~/last.ckpt"'                                ~/last.ckpt", and only a shell
        hydra.job.chdir=true                                hydra.job.chdir is true
        seed=null                                           seed is None
        seed = 1                                            = stands alone: write KEY=VALUE without
        --lr=1e-3                                           a key has no dashes: lr is set, but train
        optimizer.lr 1e-3                                   stand apart: write optimizer.lr=1e-3
        'optimizer.lr 1e-3'                                 has a space: write optimizer.lr=1e-3
        'data.batch_size = 64'                              has a space: write data.batch_size=64
        'logger=[wandb;csv]'                                part what is in a list by commas
        --seed=3                                            and a key has no dashes: give seed=3
        --resume                                            train has no resume: it has
        trainer.gradient_clip_val=none                      for nothing write trainer.gradient_clip_val=null
        callbacks.best.monitor=val/acc                      callbacks.best.monitor is val/acc, which
        +schedule.step=100                                  Cosine takes no step: did you mean steps?
        schedule=linear schedule.beta_start=0.02 schedule.beta_end=1e-4   beta_start is 0.02, above
        run/best.ckpt                                       give ckpt=run/best.ckpt
        ++optimizr.lr=1e-4                                  optimizr is set, but train has no
        +learning_rate=1e-4                                 learning_rate is set, but train has no
        optimized_metric=val_loss                           optimized_metric is val_loss, which isn't logged
        +trainer.min_epochs=5                               trainer.min_epochs is 5, more than
        trainer.num_sanity_val_steps=-2                     trainer.num_sanity_val_steps is -2
        +callbacks.x={_target_:torch.nn.Linear,in_features:2,out_features:2}  callbacks.x is a Linear
        +callbacks.e={_target_:lightning.pytorch.callbacks.EarlyStopping,monitor:loss}  monitor is loss
        +callbacks.lr._target_=lightning.pytorch.callbacks.LearningRateMonitor  Lightning refuses the run
        out=s3://bucket/run                                 out is s3://bucket/run: give a folder
        hydra.run.dir=file.txt                              hydra.run.dir is 'file.txt'
        hydra.run.dir=                                      hydra.run.dir is ''
        optimizer._partial_=false                           optimizer._partial_ is False
        'out=a b/c=d'                                       give 'out="a b/c=d"'
        ckpt=modèle.ckpt                                    give 'ckpt="modèle.ckpt"'
        +trainer.val_check_interval=1000                    trainer.val_check_interval is 1000
        +trainer.num_nodes=2                                trainer.num_nodes is 2
        seed=-1                                             seed is -1
        seed=1.5                                            seed is 1.5
        seed=true                                           seed is True
        seed=5000000000                                     seed is 5000000000
        seed=[0]                                            seed is [0]
        data.seed=abc                                       data.seed is abc
        data.seed=null                                      data.seed is None
        module.seed=abc                                     module.seed is abc
        out=                                                out is ''
        out=null                                            out is None
        out=5                                               out is 5
        out=[a]                                             out is ['a']
        out=/proc/run                                       out is /proc/run, which can't be made
        ckpt=5                                              ckpt is 5
        ckpt=[a]                                            ckpt is ['a']
        ckpt=nowhere.ckpt                                   ckpt nowhere.ckpt does not exist
        ckpt=/dev/null                                      ckpt /dev/null
        ckpt=.                                              ckpt . is a folder
        compile=abc                                         compile is abc
        channels_last=1                                     channels_last is 1
        tf32=no_way                                         tf32 is no_way
        optimized_metric=5                                  optimized_metric is 5
        model=null                                          model is null
        schedule=null                                       schedule is null
        prediction=null                                     prediction is null
        sampler=null                                        sampler is null
        data=null                                           data is null
        optimizer=null                                      optimizer is null
        lr_scheduler=null                                   lr_scheduler is null
        callbacks=null                                      callbacks is null
        logger=null                                         logger is null
        trainer=null                                        trainer is null
        model=attn                                          model is attn: did you mean attn_unet?
        modle=attn_unet                                     train has no modle: did you mean module or model?
        lr=1e-4                                             did you mean optimizer.lr?
        optimized_metric=eval/fid                           optimized_metric is eval/fid, which this run
        logger=[csv,mlflow]                                 logger is mlflow: choose one of csv, none
        experiment=conf/experiment/quickstart.yaml          give its name alone, experiment=quickstart
        data.train_size=1000                                data.train_size is 1000, but 260 images are left
        optimizer._target_=nowhere.Adam                     since there is no module nowhere: put its
        optimizer._target_=torch.optim.Adaam                AttributeError
        trainer.check_val_every_n_epoch=5                   trainer.check_val_every_n_epoch is 5, which
        trainer.strategy=ddp_spaw                           trainer.strategy is ddp_spaw
        optimizer.lr=interval(1e-4,1e-2)                    is for a search: add -m hydra/sweeper=optuna
        hydra.launcher.n_jobs=2                             choose one too, hydra/launcher=joblib
        logger=wandb logger.wandb.tags=mine                 logger.wandb.tags is mine: give a list, [mine]
        epochs=3                                            did you mean trainer.max_epochs or callbacks
        trainer.epochs=3                                    did you mean trainer.max_epochs?
        trainer.val_check_interval=5                        put a + before it, +trainer.val_check
        model.depth=3                                       model has no depth: it has attention_at
        sampler=heun sampler.eta=0.5                        sampler has no eta: it has clip, grid, steps
        +model=attn_unet                                    model is there already: leave the + out
        +seed=2                                             seed is there already: leave the + out
        ~model                                              model is null: choose one of attn_unet
        ~model.depth                                        model has no depth: it has
        ~seed                                               seed can't be read (Key 'seed' is not in struct)
        optimizer=sgd                                       optimizer is sgd: choose one of adam, adamw, muon
        logger=mlflow                                       logger is mlflow: choose one of csv, none
        seed=0,1                                            seed=0,1 gives several values: add -m to run each
        model=attn_unet,fc_unet                             gives several values: add -m
        model.widths=[8,8                                   model.widths=[8,8 can't be read
        model=5                                             model is 5: choose one of attn_unet
        hydra.colour=red                                    Hydra has no hydra.colour
        hydra.sweep.subdir=same                             hydra.sweep.subdir is same, one folder
        ckpt=https://example.com/x.ckpt                     ckpt is https://example.com/x.ckpt: fetch the file
        'optimizer.lr="1e-3"'                               optimizer.lr is the text '1e-3', in quotes
        optimizer.lr=${batch}                               optimizer.lr can't be read (Interpolation
        optimizer.lr=${oc.env:NOT_SET}                      optimizer.lr can't be read (
        optimizer.lr=1e-3,,1e-4                             has nothing between two commas
        optimizer.lr=logspace(1,2)                          calls logspace: choose one of range(0,3)
        seed=range(3,0)                                     seed=range(3,0) has no values
        callbacks.progress.refresh_rate=-1                  callbacks.progress.refresh_rate is -1
        callbacks=denoiser callbacks.samples.n=61           callbacks.samples.n is 61, but data.val_size
        trainer.limit_val_batches=0                         callbacks.best.monitor is val/loss, but
        logger=csv logger.csv.save_dir=/proc/x              logger.csv.save_dir is /proc/x, which
        model.heads=3                                       model.heads is 3
        model.heads=1.0                                     model.heads is 1.0
        model.groups=2.0                                    model.groups is 2.0
        model.groups=0                                      model.groups is 0
        model.groups=3                                      model.groups is 3
        model.channels=3                                    model.channels is 3
        model.channels=0                                    model.channels is 0
        model.image_size=64                                 model.image_size is 64
        model.image_size=27                                 image_size is 27
        model.widths=8                                      model.widths is 8
        model.widths=[]                                     model.widths is []
        model.widths=[8,8.5]                                model.widths is [8, 8.5]
        model.widths=[8,0]                                  model.widths is [8, 0]
        model.widths=[8,8,8]                                model.widths
        model.blocks=[1]                                    model.blocks [1]
        model.blocks=[0,1]                                  model.blocks [0, 1]
        model.widths=[1000000,1000000]                      bytes
        model.num_classes=5                                 model.num_classes is 5
        model.num_classes=1000                              model.num_classes is 1000
        model.num_classes=-1                                model.num_classes is -1
        model.num_classes=ten                               model.num_classes is ten
        +model.depth=3                                      SmallUNet takes no depth
        model._target_=nothing.Here                         model._target_ is nothing.Here
        model._target_=5                                    model._target_ is 5
        model._target_=math.pi                              model._target_ is math.pi
        schedule.steps=0                                    schedule.steps is 0
        schedule.steps=1.5                                  schedule.steps is 1.5
        schedule.steps=100000000000                         schedule.steps is 100000000000
        schedule.s=nan                                      schedule.s is nan
        schedule.max_beta=2                                 schedule.max_beta is 2
        schedule=linear schedule.steps=100                  schedule.steps is 100
        schedule=linear schedule.beta_end=abc               schedule.beta_end is abc
        schedule=linear schedule.beta_end=2                 schedule.beta_end is 2
        schedule=sigmoid schedule.span=nan                  schedule.span is nan
        schedule.logit_std=1                                times have a group of their own
        times=logit_normal times.std=nan                    times.std is nan
        times=logit_normal times.std=0                      times.std is 0
        times=log_normal times.mean=nan                     times.mean is nan
        times=importance times.bins=1                       times.bins is 1
        times=logitnormal                                   did you mean logit_normal?
        schedule=ve schedule.sigma_min=100                  schedule.sigma_min is 100
        schedule=ve schedule.rho=0                          schedule.rho is 0
        schedule=ve schedule.told=sigma                     schedule.told is sigma
        schedule=ve schedule.sigma_max=1                    the schedule ends at alpha 1 and sigma 1
        prediction=edm prediction.sigma_data=0              prediction.sigma_data is 0
        schedule=single_step                                single_step ends at alpha_end 1
        schedule=single_step schedule.sigma_end=nan         schedule.sigma_end is nan
        sampler.steps=1001                                  1001 steps
        sampler.steps=0                                     sampler.steps is 0
        sampler.steps=2.5                                   sampler.steps is 2.5
        sampler.eta=2                                       sampler.eta is 2
        sampler.eta=nan                                     sampler.eta is nan
        sampler.grid=[1]                                    sampler.grid is [1]
        sampler.grid=fine                                   sampler.grid is 'fine'
        sampler.clip=7                                      sampler.clip is 7
        sampler=ancestral sampler.variance=big              sampler.variance is 'big'
        sampler=ancestral_learned                           learnt none
        guidance=2                                          guidance is 2
        guidance.scale=2                                    has no labels
        guidance.scale=lots                                 guidance.scale is lots
        guidance.interval=[1,0]                             guidance.interval is [1, 0]
        guidance.interval=[true,true]                       guidance.interval is [True, True]
        guidance.rescale=2                                  guidance.rescale is 2
        model.num_classes=10 guidance.scale=2 module.label_dropout=0  module.label_dropout is 0
        module.label_dropout=abc                            module.label_dropout is abc
        module.label_dropout=null                           module.label_dropout is None
        module.label_dropout=2                              module.label_dropout is 2
        module.min_snr_gamma=5                              weightings have a group of their own
        weighting=min_snr weighting.gamma=abc               weighting.gamma is abc
        weighting=min_snr weighting.gamma=nan               weighting.gamma is nan
        weighting=min_snr weighting.gamma=0                 weighting.gamma is 0
        weighting=p2 weighting.k=0                          weighting.k is 0
        weighting=learned weighting.base=1                  weighting.base is 1
        weighting=learned weighting.width=65                weighting.width is 65
        schedule=single_step schedule.alpha_end=nan         schedule.alpha_end is nan
        schedule=single_step schedule.sigma_end=abc         schedule.sigma_end is abc
        weighting=null                                      weighting is null: choose one of
        augment=null                                        augment is null: for none write ~augment
        module.fixed_noise=abc                              module.fixed_noise is abc
        +module.nonsense=1                                  LitDiffusion takes no nonsense
        optimizer.lr=abc                                    optimizer.lr is abc
        optimizer.lr=nan                                    optimizer.lr is nan
        optimizer.lr=inf                                    optimizer.lr is inf
        optimizer.lr=null                                   optimizer.lr is None
        optimizer.lr=-1                                     optimizer can't work
        optimizer.weight_decay=-1                           optimizer can't work
        optimizer.betas=[2,3]                               optimizer can't work
        optimizer.betas=[0.9]                               optimizer.betas is [0.9]
        +optimizer.nonsense=1                               AdamW takes no nonsense
        optimizer._target_=torch.optim.LBFGS                which LBFGS doesn't take
        optimizer=muon optimizer.momentum=1                 optimizer.momentum is 1
        lr_scheduler=[exponential,warmup_cosine]            lr_scheduler
        lr_scheduler=exponential lr_scheduler.interval=day  lr_scheduler.interval is day
        lr_scheduler=exponential lr_scheduler.scheduler=null   lr_scheduler.scheduler is None
        lr_scheduler=exponential lr_scheduler.scheduler.gamma=nan  lr_scheduler.scheduler.gamma is nan
        lr_scheduler=exponential lr_scheduler.scheduler.gamma=-1   learning rate
        lr_scheduler=warmup_cosine lr_scheduler.scheduler.warmup=abc  lr_scheduler.scheduler.warmup is abc
        lr_scheduler=warmup_cosine lr_scheduler.scheduler.warmup=1    warmup is 1
        lr_scheduler=exponential_decay lr_scheduler.scheduler.final=0  final is 0
        data.batch_size=0                                   data.batch_size is 0
        data.batch_size=2.5                                 data.batch_size is 2.5
        data.batch_size=400                                 data.batch_size 400
        data.eval_batch_size=1.5                            data.eval_batch_size is 1.5
        data.val_size=0                                     data.val_size is 0
        data.val_size=0.1                                   data.val_size is 0.1
        data.val_size=400                                   data.val_size is 400
        data.train_size=-1                                  data.train_size is -1
        data.train_size=1.5                                 data.train_size is 1.5
        data.train_size=0                                   data.train_size is 0
        data.num_classes=abc                                data.num_classes is abc
        data.num_classes=5                                  labels up to 9
        data.image_size=32                                  data.image_size
        data.shuffle=abc                                    data.shuffle is abc
        data.source=null                                    data.source is None
        data.source._target_=nothing.Here                   data.source._target_ is nothing.Here
        trainer.max_epochs=0                                trainer.max_epochs is 0
        trainer.max_epochs=null                             trainer.max_epochs is None
        trainer.max_epochs=1.5                              trainer.max_epochs is 1.5
        trainer.max_steps=0                                 trainer.max_steps is 0
        trainer.max_steps=2.5                               trainer.max_steps is 2.5
        trainer.limit_train_batches=0                       trainer.limit_train_batches is 0
        trainer.limit_train_batches=0.00001                 trainer.limit_train_batches is 1e-05
        trainer.limit_train_batches=abc                     trainer.limit_train_batches is abc
        trainer.limit_val_batches=-1                        trainer.limit_val_batches is -1
        trainer.log_every_n_steps=0                         trainer.log_every_n_steps is 0
        trainer.log_every_n_steps=abc                       trainer.log_every_n_steps is abc
        trainer.log_every_n_steps=1.5                       trainer.log_every_n_steps is 1.5
        trainer.accumulate_grad_batches=0                   trainer.accumulate_grad_batches is 0
        trainer.accumulate_grad_batches=1.5                 trainer.accumulate_grad_batches is 1.5
        trainer.accumulate_grad_batches=-1                  trainer.accumulate_grad_batches is -1
        trainer.check_val_every_n_epoch=0                   trainer.check_val_every_n_epoch is 0
        trainer.check_val_every_n_epoch=-1                  trainer.check_val_every_n_epoch is -1
        trainer.gradient_clip_val=nan                       trainer.gradient_clip_val is nan
        trainer.gradient_clip_val=-1                        trainer.gradient_clip_val is -1
        trainer.precision=17                                trainer.precision is 17
        trainer.precision=16-true                           trainer.precision is 16-true
        trainer.accelerator=tpu                             trainer
        trainer.devices=99                                  trainer.devices is 99
        trainer.devices=0                                   trainer.devices
        trainer.strategy=nothing                            trainer
        trainer.default_root_dir=null                       trainer.default_root_dir is None
        +trainer.nonsense=1                                 Trainer takes no nonsense
        +trainer.callbacks=[1]                              trainer.callbacks
        +trainer.plugins=abc                                trainer.plugins
        +trainer.logger=true                                trainer.logger
        +trainer.enable_checkpointing=false                 trainer.enable_checkpointing
        +trainer.overfit_batches=1                          trainer.overfit_batches
        callbacks.samples.n=0                               callbacks.samples has n 0
        callbacks.samples.n=1.5                             callbacks.samples.n is 1.5
        callbacks.samples.n=1000000000000                   bytes
        callbacks.samples.columns=0                         columns 0
        callbacks.samples.epochs=[-1]                       epochs is [-1]
        callbacks.samples.epochs=abc                        callbacks.samples.epochs is abc
        callbacks.samples.seeds=3                           callbacks.samples.seeds is 3
        callbacks.samples.seeds=[1.5]                       callbacks.samples.seeds is [1.5]
        callbacks.samples.seeds=[]                          seeds is []
        callbacks.samples.trajectory_times=abc              callbacks.samples.trajectory_times is abc
        callbacks.samples.trajectory_times=[2]              callbacks.samples.trajectory_times is [2]
        callbacks.samples.trajectory_times=[nan]            callbacks.samples.trajectory_times is [nan]
        callbacks.samples.trajectory_n=1.5                  callbacks.samples.trajectory_n is 1.5
        callbacks.best.monitor=nothing                      callbacks.best.monitor is nothing
        callbacks.last.dirpath=/dev/null                    callbacks.last.dirpath is /dev/null
        callbacks.last.every_n_train_steps=0                callbacks.last.every_n_train_steps is 0
        callbacks.progress.seconds=abc                      callbacks.progress.seconds is abc
        callbacks.ema=5                                     callbacks.ema is 5
        callbacks.ema.decay=1.0                             callbacks.ema.decay is 1
        callbacks=evaluation callbacks.evaluation.n=5       callbacks.evaluation.n is 5
        callbacks=evaluation callbacks.evaluation.features=vgg  features is vgg
        logger=[]                                           logger
        logger=csv logger.csv.save_dir=5                    logger.csv.save_dir is 5
    """,
    "sample": """
        n=0                                                 n is 0
        n=many                                              n is many
        n=1.5                                               n is 1.5
        n=1000000000000                                     bytes
        batch_size=0                                        batch_size is 0
        batch_size=100000000 n=100000000                    bytes
        rows=0                                              rows is 0
        seed=abc                                            seed is abc
        y=true                                              y is True
        y=[true]                                            y is [True]
        y=10                                                y is 10
        y=[]                                                y is []
        y=seven                                             y is seven
        steps=0                                             steps is 0
        steps=abc                                           steps is abc
        steps=1000000000                                    steps is 1000000000
        sampler.steps=3                                     steps=3
        +sampler.steps=3                                    steps=3
        sampler=ddim sampler.eta=abc                        sampler.eta is abc
        guidance.scale=abc                                  guidance.scale is abc
        guidance.interval=3                                 guidance.interval is 3
        guidance.interval=[true,true]                       guidance.interval is [True, True]
        guidance=null                                       guidance is null: choose one of
        guidance=cfgpp                                      did you mean cfg_pp?
        guidance=apg guidance.norm=0                        guidance.norm is 0
        guidance=cfg_zero guidance.still=1                  guidance.still is 1
        guidance=cfg_pp guidance.scale=2                    guidance.scale is 2
        guidance=cfg_pp                                     choose sampler=ddim sampler.clip=false
        guidance=autoguidance                               give guidance.bad=PATH
        guidance=autoguidance guidance.bad=nowhere          ckpt nowhere does not exist
        guidance.method=dpo                                 guidance.method is dpo
        device=mps                                          device is mps
        device=meta                                         device is meta
        device=null                                         device is None
        device=5                                            device is 5
        device=cuda                                         device is cuda
        device=cpu:9                                        device is cpu:9
        precision=17                                        precision is 17
        precision=null                                      precision is None
        out=                                                out is ''
        out=null                                            out is None
        out=5                                               out is 5
        out=file.txt                                        out is file.txt
        ckpt=5                                              ckpt is 5
        ckpt=nowhere                                        ckpt nowhere does not exist
        ckpt=file.txt                                       ckpt file.txt is damaged
        gif=abc                                             gif is abc
        gif_frames=0                                        gif_frames is 0
        prompt=cat y=3                                      leave one out
        prompt=seven                                        prompt is 'seven', but this model takes labels
        prompt=5                                            prompt
        negative_prompt=ugly                                negative_prompt is 'ugly'
        pretrained=diffusers                                pretrained.path is missing
        pretrained=diffusers pretrained.path=5              pretrained.path is 5
        trust=5                                             trust is 5
    """,
    "evaluate": """
        features=mnist second=mnist                         second is mnist, which features is too
        sampler=ddim sampler.steps=50 steps=20              steps and sampler.steps mean the same
        n=5                                                 n is 5
        n=6.5                                               n is 6.5
        k=0                                                 k is 0
        cas_images=-1                                       cas_images is -1
        bits_n=abc                                          bits_n is abc
        bits_steps=1                                        bits_steps is 1
        evaluator_seed=-1                                   evaluator_seed is -1
        memorisation=2                                      memorisation is 2
        features=''                                         features is ''
        features=5                                          features is 5
        features=vgg                                        features is vgg
        second=5                                            second is 5
        second=nowhere                                      second is nowhere
        samples=nowhere.npz data=mnist                      samples is nowhere.npz
        samples=file.txt data=mnist                         samples is file.txt
        y=labels                                            y is labels: choose data, all, null
        samples=bomb.png data=mnist                         samples is bomb.png, no .npz file
        samples=empty data=mnist                            samples is empty, a folder: give a .npz
        samples=arrays.npz data=mnist                       it holds arr_0, but no images
        samples=last.npz data=mnist bits_n=5                bits_n is set, but samples are scored as they are
        data=mnist data.batch_size=0                        data.batch_size is 0
        samples=huge.npz data=mnist                         samples is huge.npz
        samples=file.txt ckpt=x                             leave one out
        ckpt=nowhere                                        ckpt nowhere does not exist
        y=11                                                y is 11
    """,
    "edit": """
        edit=sdedit edit.starts=[99]                        edit.starts
        edit=sdedit edit.y=true                             edit.y is True
        edit=inpaint edit.mask=[a]                          edit.mask is ['a']
        edit=inpaint edit.mask=diagonal                     edit.mask
        edit=inpaint edit.mask=bomb.png                     bomb.png
        edit=inpaint edit.n=1000000000                      bytes
        edit=inpaint edit.times_over=0                      edit.times_over
        edit=anagram edit.view=[a]                          edit.view is ['a']
        edit=hybrid edit.sigma=wide                         edit.sigma is wide
        edit=one_step edit.times=[abc]                      edit.times
        edit=sdedit input=nowhere.png                       nowhere.png
        edit=sdedit input=file.txt                          file.txt
        edit=sdedit input=bomb.png                          bomb.png
        edit=sdedit steps=5                                 edit.starts is [1, 3, 5, 7, 10, 20], but
        edit=sdedit image=-1                                image is -1
        edit=sdedit image=1 input=bomb.png                  input and image are both given
        edit=anagram image=1                                image is 1, but anagram edits no image
        edit=anagram edit.upright=12                        edit.upright is 12: the condition 12 is asked for
        edit=sdedit image=one                               image is one
        edit=sdedit invert=true                             invert is true
        edit=sdedit dpi=1                                   dpi is 1
        edit=sdedit seed=-1                                 seed is -1
        edit=paint                                          edit is paint: did you mean inpaint? choose one of
        dpi=100                                             edit is missing
    """,
    "study": """
        seeds=[0]                                           study is missing
        study=nfe seeds=5                                   seeds is 5
        study=nfe n=500                                     put it into the list study.evaluate
        study=nfe evaluate.n=500                            put it into the list study.evaluate
        study=nfe worker=-1                                 worker is -1
        study=nfe 'study.evaluate=[{n:6}]'                  study.evaluate has {'n': 6}: give overrides
        study=optimizers 'study.choices.adamw.train=["ckpt=x.ckpt"]'  study.choices.adamw: train has ckpt=
        study=optimizers 'study.choices.adamw.train=["model.num_classes=0"]'  but the model has no labels
        study=nfe seeds=[0,0]                               seeds is [0, 0]
        study=nfe seeds=[]                                  seeds is []
        study=nfe seeds=[-1]                                seeds is -1
        study=nfe study.scores=[]                           study.scores is []
        study=nfe study.scores=[beauty]                     study.scores has beauty
        study=nfe study.choices.ddim_5=5                    study.choices.ddim_5 is 5
        study=nfe study.choices.ddim_5.evaluate=[5]         study.choices.ddim_5
        study=nfe 'study.choices.ddim_5.evaluate=["out=x"]'   out=x, which the study sets
        study=nfe 'study.choices.ddim_5.evaluate=["steps=0"]'  steps is 0
        study=nfe 'study.choices.ddim_5.evaluate=["device=cuda"]'  device is cuda
        study=nfe study.baseline=none                       study.baseline is none
        study=nfe ckpt=nowhere                              ckpt nowhere does not exist
        study=nfe out=                                      out is ''
        study=optimizers 'study.choices.adamw.train=["optimizer.momentum=2"]'  optimizer.momentum is 2
        study=optimizers 'study.choices.adamw.train=["optimizer.lr=-1"]'   optimizer.lr is -1
        study=optimizers 'study.choices.adamw.train=["data.batch_size=0"]'   data.batch_size is 0
        study=optimizers 'study.choices.adamw.train=["callbacks.last=null"]'   callbacks.last
    """,
    "figures": """
        seed=1                                              figure is missing
        figure=loss                                         run is None
        figure=loss run=[]                                  run is []
        figure=loss run=nowhere                             nowhere
        figure=loss run=empty                               empty
        figure=progress run=nowhere                         nowhere
        figure=nfe run=nowhere                              run is nowhere
        figure=noising figure.times=[2]                     figure.times
        figure=noise_levels figure.sigmas=[nan]             figure.sigmas is [nan]
        figure=noise_levels figure.sigmas=[-1]              figure.sigmas is [-1]
        figure=noise_levels figure.n=0                      0 validation images
        figure=schedules dpi=0                              dpi is 0
        figure=schedules out=                               out is ''
        figure=pure_noise                                   ckpt=PATH
    """,
    "export": """
        format=onnx                                         ckpt is missing
        ckpt=nowhere                                        ckpt nowhere does not exist
        ckpt=file.txt                                       ckpt file.txt is damaged
        ckpt=nowhere format=gguf                            format is gguf
        ckpt=nowhere dtype=int8                             dtype is int8
        ckpt=nowhere format=[onnx]                          format is ['onnx']
        ckpt=nowhere out=                                   out is ''
    """,
    "features": """
        fit.epochs=0                                        fit.epochs is 0
        fit.lr=0                                            fit.lr is 0
        data.train_size=5                                   data.train_size is set, but features takes all
        data.image_size=32                                  data.image_size say (1, 32, 32)
        fit.batch_size=1.5                                  fit.batch_size is 1.5
        fit.lr=abc                                          fit.lr is abc
        fit.dropout=1                                       fit.dropout is 1
        fit.flip=2                                          fit.flip is 2
        +fit.x=1                                            fit.x is set
        network.widths=[1]                                  network.widths is [1]
        network.widths=abc                                  network.widths is abc
        network.widths=[1000000,1000000,1000000,1000000]    bytes
        network.num_classes=5                               network.num_classes is 5
        network.channels=3                                  network.channels is 3
        network.num_features=0                              network.num_features is 0
        device=mps                                          device is mps
        data=null                                           data is null
        seed=-1                                             seed is -1
    """,
}


def cases():
    for verb, table in MISTAKES.items():
        for line in table.strip().splitlines():
            overrides, says = re.split(r"  +", line.strip(), maxsplit=1)
            yield pytest.param(verb, shlex.split(overrides), says, id=f"{verb} {overrides}")


@cache  # most of a second
def bomb() -> bytes:
    """A small file with a picture of 400 million pixels."""
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Files that are not what they should be."""
    (tmp_path / "file.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "arrays.npz", np.zeros(3))
    np.savez(tmp_path / "last.npz", images=np.zeros((12, 28, 28, 1), np.uint8))
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as file, file.open("images.npy", "w") as images:
        header = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 1, 28, 28)}
        np.lib.format.write_array_header_1_0(images, header)
    (tmp_path / "bomb.png").write_bytes(bomb())
    return tmp_path


OWN = {"train": TRAIN, "features": DIGITS[:1]}  # what the commands are given besides


def refusal(verb: str, overrides: list[str]) -> str | None:
    """What a command says of overrides that it refuses, found in this process."""
    words = [*OWN.get(verb, []), *overrides]
    if sentence := unclear(verb, words):
        return sentence
    try:
        cfg = composed(verb, ["out=run", *words])
        check_keys(cfg, verb)
        import_module(f"lit_diffusion.{verb}.run").main(cfg)
    except Exception as error:
        return explain(error)
    return None


def assert_nothing_made(folder, before):
    made = {*folder.rglob("*")} - before
    assert not [path for path in made if path.suffix in (".ckpt", ".png", ".npz", ".npy")]


@pytest.mark.parametrize("verb, overrides, says", list(cases())[::2])  # all are commands in make test-slow
def test_a_mistake_is_one_sentence(verb, overrides, says, folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = {*folder.rglob("*")}
    assert says in refusal(verb, overrides)
    assert_nothing_made(folder, before)


@pytest.mark.slow
@pytest.mark.parametrize("verb, overrides, says", list(cases()))
def test_a_command_prints_the_sentence(verb, overrides, says, folder):
    before = {*folder.rglob("*")}
    script = [str(ROOT / "train.py")] if verb == "train" else ["-m", f"lit_diffusion.{verb}"]
    result = run_script(*script, *OWN.get(verb, []), *overrides, cwd=folder)
    assert result.returncode == 1, result.stdout
    assert "Traceback" not in result.stderr
    assert says in result.stderr
    assert_nothing_made(folder, before)


PARTS = """
import torch
from torch import nn

class Net(nn.Module):
    num_classes = 10
    def __init__(self, padding=1, labels=11, out="tensor"):
        super().__init__()
        self.conv, self.labels, self.out = nn.Conv2d(1, 1, 3, padding=padding), nn.Embedding(labels, 1), out
    def forward(self, x_t, time_input, y):
        x = self.conv(x_t) + self.labels(y)[:, :, None, None]
        return x if self.out == "tensor" else {"sample": x}

class TwoArguments(Net):
    def forward(self, x_t, y):
        return x_t

class Source:
    def prepare(self):
        pass
    def load(self, train):
        return torch.zeros(8, 1, 28, 28)
"""


@pytest.mark.parametrize(
    "own, says",
    [
        ("_target_: own.Net", None),
        ("{_target_: own.Net, padding: 0}", "it makes (1, 1, 26, 26) of (1, 1, 28, 28)"),
        ("{_target_: own.Net, labels: 10}", "Net can't be trained: index out of range"),
        ("{_target_: own.Net, out: dict}", "it returns a dict; its forward(x_t, time_input, y) must"),
        ("_target_: own.TwoArguments", "TwoArguments can't be trained: "),
        ("_target_: own.Source", "model is a Source: it must be a torch.nn.Module with num_classes"),
        ("_target_: own.Nett", "model._target_ is own.Nett, which can't be imported"),
        ("name: Net", "which names no class: add _target_, its full name"),
        ("_target_: own.Net\n\tpadding: 1", "mine.yaml can't be read"),
    ],
)
def test_networks_of_the_users_own(tmp_path, own, says):
    """One that works, and mistakes in the class or in its file."""
    (tmp_path / "own.py").write_text(PARTS)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(own)
    options = [*DIGITS, "model=mine", "debug=limit", "sampler.steps=2", "logger=none", "hydra.run.dir=run"]
    where = {"PYTHONPATH": f"{ROOT / 'tests' / 'helpers'}:{tmp_path}"}
    command = [str(ROOT / "train.py"), f"--config-dir={tmp_path / 'conf'}", *options]
    result = run_script(*command, cwd=tmp_path, **where)
    assert "Traceback" not in result.stderr
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file() == (says is None)
    if says:
        assert result.returncode == 1
        assert says in result.stderr


def test_an_experiment_that_would_be_ignored(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("optimizer:\n  lr: 1e-4\n")
    result = run_script(str(ROOT / "train.py"), f"--config-dir={tmp_path}", "experiment=mine", cwd=tmp_path)
    assert result.returncode == 1
    assert "mine.yaml would be ignored: let it begin with the line # @package _global_" in result.stderr


def test_an_experiment_without_the_word_override(tmp_path):
    (tmp_path / "experiment").mkdir()
    listed = "# @package _global_\ndefaults:\n  - /schedule: flow\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(listed)
    result = run_script(str(ROOT / "train.py"), f"--config-dir={tmp_path}", "experiment=mine", cwd=tmp_path)
    assert result.returncode == 1
    assert (
        "an experiment chooses schedule, which is chosen already: write  - override /schedule"
        in result.stderr
    )


def test_there_are_many():
    assert len(list(cases())) >= 300
